"""Benchmarks of a relay with little to do: how soon it delivers, what it costs meanwhile."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from django.conf import settings

from django_broadcaster.publishers import publisher

from . import outbox, relays
from .bare import listen_loop
from .measure import Figure, compare

SETTLE_SECONDS = 8.0
IDLE_SECONDS = 60.0
"""Some of what an idle relay does comes once a minute."""


def latency(runs: int, events: int) -> list[Figure]:
    """From the commit of a publish to a blocked XREAD, at 100 and at 1,000 a second."""
    figures = []
    for rate, count in ((100, 500), (1000, 3000)):
        ours: list[tuple[float, float]] = []
        bare: list[tuple[float, float]] = []
        for _ in range(runs):
            ours.append(_percentiles(_relay, rate, count))
            bare.append(_percentiles(listen_loop, rate, count))
        for index, (name, wanted) in enumerate((("p50", "<= 2.5"), ("p99", "<= 4.0"))):
            pairs = iter(zip(ours, bare, strict=True))
            values = [(mine[index], other[index]) for mine, other in pairs]
            figures.append(
                compare(
                    f"latency {name} at {rate}/s",
                    iter([mine for mine, _ in values]).__next__,
                    iter([other for _, other in values]).__next__,
                    unit="ms",
                    wanted=wanted,
                    runs=runs,
                )
            )
    return figures


def idle(runs: int, events: int) -> list[Figure]:
    """Statements a second, and percent of a core, of a relay with nothing to do."""
    outbox.empty()
    workers = relays.start()
    try:
        time.sleep(SETTLE_SECONDS)
        statements, cpu, began = _statements(), _cpu(workers[0].pid), time.monotonic()
        time.sleep(IDLE_SECONDS)
        seconds = time.monotonic() - began
        per_second = (_statements() - statements) / seconds
        percent = (_cpu(workers[0].pid) - cpu) / seconds * 100
    finally:
        relays.stop(workers)
    return [
        Figure("idle: statements", "1/s", per_second, 1.0, per_second, "<= 2.0"),
        Figure("idle: of a core", "%", percent, 1.0, percent, "<= 1.0"),
    ]


def _percentiles(deliverer: Callable[[], object], rate: int, count: int) -> tuple[float, float]:
    """Publish at a steady rate while a deliverer runs; return p50 and p99 in milliseconds."""
    outbox.empty()
    relays.empty_stream()
    arrived: dict[str, float] = {}
    committed: dict[str, float] = {}
    with deliverer():  # type: ignore[attr-defined]
        reader = threading.Thread(target=_read, args=(arrived, count))
        reader.start()
        began = time.perf_counter() + 0.2
        for number in range(count):
            while (left := began + number / rate - time.perf_counter()) > 0:
                time.sleep(left)
            event = publisher.publish_event(
                "order.placed", "/bench/orders", {"n": number}, partition_key=f"key-{number % 50}"
            )
            committed[event.event_id] = time.perf_counter()
        reader.join(30)
    delays = sorted((arrived[event_id] - moment) * 1000 for event_id, moment in committed.items())
    return delays[len(delays) // 2], delays[int(len(delays) * 0.99)]


def _read(arrived: dict[str, float], count: int) -> None:
    """Wait for entries as a consumer does."""
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
        time.sleep(0.5)  # its listener's probe
        yield
    finally:
        relays.stop(workers)


def _statements() -> int:
    """Return how many transactions the database has seen; each of a relay's is one statement."""
    with psycopg.connect(**outbox.address(), autocommit=True) as other:
        time.sleep(1.5)  # the server's counters follow within a second
        row = other.execute(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
    return int(row[0]) if row else 0


def _cpu(pid: int) -> float:
    """Return the seconds of CPU time that a process has used."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
