"""Benchmarks of the relay: how fast it moves a backlog from PostgreSQL to Redis Streams."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from statistics import median

from django.test.utils import override_settings

from . import bare, outbox, relays
from .measure import Figure, compare


def relay(runs: int, events: int) -> list[Figure]:
    """Compare one relay, settled by UPDATE and by DELETE, with the bare loops."""
    return [
        compare(
            "relay",
            partial(_on_backlog, events, relays.drain),
            partial(_on_backlog, events, bare.drain_to_stream),
            wanted=">= 0.80",
            runs=runs,
        ),
        compare(
            "relay, RETENTION zero",
            partial(_on_backlog, events, _drain_and_delete),
            partial(_on_backlog, events, partial(bare.drain_to_stream, delete=True)),
            wanted=">= 0.80",
            runs=runs,
        ),
    ]


def hotkey(runs: int, events: int) -> list[Figure]:
    """Compare a backlog of one key with one of 1,000 keys."""
    return [
        compare(
            "hotkey",
            partial(_on_backlog, events, relays.drain, keys=1),
            partial(_on_backlog, events, relays.drain),
            wanted=">= 0.90",
            runs=runs,
        )
    ]


def backlog(runs: int, events: int) -> list[Figure]:
    """Compare a relay with 3 million retained rows in the table with one without."""
    return [_beside_other_rows("backlog", 3_000_000, "published", 0, runs, events)]


def scheduled(runs: int, events: int) -> list[Figure]:
    """Compare a relay with 1 million events due next week with one without."""
    return [_beside_other_rows("scheduled", 1_000_000, "scheduled", 7, runs, events)]


def never_analysed(runs: int, events: int) -> list[Figure]:
    """A backlog that the database has no statistics of, beside one that it has just analysed."""
    return [
        compare(
            name,
            lambda when_empty=when_empty: _drain_new(events, analyse_empty=when_empty),  # type: ignore[misc]
            lambda: _drain_new(events, analyse=True),
            wanted=">= 0.90",
            runs=runs,
        )
        for name, when_empty in (("never analysed", False), ("analysed when empty", True))
    ]


def held_xmin(runs: int, events: int) -> list[Figure]:
    """Compare the last of 300,000 events with the first while a session holds a snapshot."""
    windows = [_windows_under_snapshot(300_000) for _ in range(runs)]
    first, last = (median(pair[i] for pair in windows) for i in (0, 1))
    ratio = median(pair[1] / pair[0] for pair in windows)
    return [Figure("held-xmin", "events/s", last, first, ratio, ">= 0.95")]


def _on_backlog(events: int, drain: outbox.Drain, *, keys: int = 1000) -> float:
    relays.empty_stream()
    return outbox.on_backlog(events, drain, keys=keys)


def _drain_new(events: int, *, analyse_empty: bool = False, analyse: bool = False) -> float:
    """Drain a backlog in a table without statistics, unless it is analysed before or after."""
    outbox.empty()
    relays.empty_stream()
    with outbox.without_statistics():
        if analyse_empty:
            outbox.analyse()
        outbox.fill(events, maintain=False)
        if analyse:
            outbox.analyse()
        outbox.quieten()
        return relays.drain()


def _drain_and_delete() -> float:
    with override_settings(OUTBOX_RETENTION=0):
        return relays.drain()


def _beside_other_rows(
    name: str, count: int, status: str, days: int, runs: int, events: int
) -> Figure:
    """Compare relays on one backlog with and without other rows in the table."""
    alone = [_on_backlog(events, relays.drain) for _ in range(runs)]
    outbox.empty()
    outbox.fill(count, status=status, days=days)
    beside = []
    for _ in range(runs):
        relays.empty_stream()
        outbox.fill(events)
        beside.append(relays.drain())
    ours, bare_rate = median(beside), median(alone)
    return Figure(name, "events/s", ours, bare_rate, ours / bare_rate, ">= 0.95")


def _windows_under_snapshot(events: int, window: int = 20_000) -> tuple[float, float]:
    """Return the rates of the first and the last window."""
    outbox.empty()
    relays.empty_stream()
    outbox.fill(events)
    with outbox.held_snapshot():
        relays.drain()
    times = outbox.window_times(window)
    rates = [window / (b - a).total_seconds() for a, b in pairwise(times)]
    return rates[0], rates[-1]
