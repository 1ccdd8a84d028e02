"""Benchmarks of a relay with little to do: how soon it delivers, and what it costs when idle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from django.conf import settings

from . import outbox, pacing, relays
from .bare import listen_loop
from .measure import Figure, of_pairs

Deliverer = Callable[[], AbstractContextManager[None]]
"""Delivers events while its block runs."""

SETTLE_SECONDS = 8.0
IDLE_SECONDS = 60.0
"""An idle relay does some of its work once a minute."""


RATES = {
    20: (200, "<= 1.3", "<= 1.5"),
    100: (500, "<= 1.3", "<= 1.5"),
    1000: (3000, "<= 2.5", "<= 4.0"),
}
"""Events a second, with the events of a run and the ratios to reach, for p50 and for p99."""


def latency(runs: int, events: int) -> list[Figure]:
    """Compare the time from commit to a blocked XREAD with that of the bare LISTEN loop."""
    return [
        figure
        for rate, (count, *wanted) in RATES.items()
        for figure in _beside_bare("latency", _relay, rate, count, wanted, runs)
    ]


def latency_of_fence(runs: int, events: int) -> list[Figure]:
    """Compare a bare loop that checks a lease before each batch with one that does not."""
    fenced = partial(listen_loop, fenced=True)
    return [
        figure
        for rate in (20, 100)
        for figure in _beside_bare(
            "latency of the lease check", fenced, rate, RATES[rate][0], ("", ""), runs
        )
    ]


def _beside_bare(
    name: str,
    deliverer: Deliverer,
    rate: int,
    count: int,
    wanted: Sequence[str],
    runs: int,
) -> list[Figure]:
    """Return the figures of p50 and p99, each beside that of the bare loop."""
    pairs = [
        (_percentiles(deliverer, rate, count), _percentiles(listen_loop, rate, count))
        for _ in range(runs)
    ]
    return [
        of_pairs(
            f"{name} {percentile} at {rate}/s",
            [(ours[index], bare[index]) for ours, bare in pairs],
            unit="ms",
            wanted=wanted[index],
        )
        for index, percentile in enumerate(("p50", "p99"))
    ]


def idle(runs: int, events: int) -> list[Figure]:
    """Count the statements a second of an idle relay, and its percentage of a core."""
    outbox.empty()
    workers = relays.start()
    try:
        time.sleep(SETTLE_SECONDS)
        statements, cpu, began = outbox.transactions(), relays.cpu(workers[0].pid), time.monotonic()
        time.sleep(IDLE_SECONDS)
        seconds = time.monotonic() - began
        per_second = (outbox.transactions() - statements) / seconds
        percent = (relays.cpu(workers[0].pid) - cpu) / seconds * 100
    finally:
        relays.stop(workers)
    return [
        Figure("idle: statements", "1/s", per_second, 1.0, per_second, "<= 2.0"),
        Figure("idle: of a core", "%", percent, 1.0, percent, "<= 1.0"),
    ]


def _percentiles(deliverer: Deliverer, rate: int, count: int) -> tuple[float, float]:
    """Publish at a steady rate while `deliverer` runs; return p50 and p99 in milliseconds."""
    outbox.empty()
    relays.empty_stream()
    arrived: dict[str, float] = {}
    with deliverer():
        reader = threading.Thread(target=_read, args=(arrived, count))
        reader.start()
        committed = pacing.publish_steadily(rate, count)
        reader.join(30)
    return pacing.percentiles(committed, arrived)


def _read(arrived: dict[str, float], count: int) -> None:
    """Read entries as a consumer does, and note when each arrived."""
    with relays.client() as broker:
        last = "0"
        while len(arrived) < count:
            answer = broker.xread({settings.STREAM: last}, block=10_000)
            now = time.perf_counter()
            if not answer:
                return
            entries = answer[0][1]
            last = entries[-1][0]
            arrived.update((fields[b"event_id"].decode(), now) for _, fields in entries)


@contextmanager
def _relay() -> Iterator[None]:
    workers = relays.start()
    try:
        relays.wait_for_leases(1)
        time.sleep(0.5)  # until its listener has been tested
        yield
    finally:
        relays.stop(workers)
