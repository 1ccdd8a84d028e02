"""Benchmarks of two relays, and of one with a long backlog."""

from __future__ import annotations

import resource

from . import costs, outbox, relays
from .measure import Figure, compare


def scale(runs: int, events: int) -> list[Figure]:
    """Compare two processes with one, and measure the memory of one with a million events."""
    return [
        compare(
            "two processes",
            lambda: costs.point(2, 2 * events).rate,
            lambda: costs.point(1, 2 * events).rate,
            wanted=">= 1.3",
            runs=runs,
        ),
        *_memory(),
    ]


def _memory() -> list[Figure]:
    """Measure the megabytes of a relay after a tenth of a million events, and after all."""
    total = 1_000_000
    outbox.empty()
    relays.empty_stream()
    outbox.fill(total)
    workers = relays.start()
    try:
        relays.wait_for_entries(total // 10)
        early = _megabytes(workers[0].pid)
        relays.wait_for_entries(total)
        late = _megabytes(workers[0].pid)
    finally:
        relays.stop(workers)
    return [
        Figure("memory at the end of 1,000,000", "MB of 100", late, 100.0, late / 100, "<= 1.0"),
        Figure("memory at the end / at a tenth", "MB", late, early, late / early, "<= 1.1"),
    ]


def _megabytes(pid: int) -> float:
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() / 1e6
