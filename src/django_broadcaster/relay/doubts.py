"""Which events fail while others get through: what looks like an outage may be one event.

A backend says that its broker is away, and can't know better: an endpoint that answers one event
with 503, or never, looks like one that is down. What becomes of other events shows the difference.
This is the memory of it. It is lost with the relay, and then the same is found out again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from django_broadcaster.exceptions import BackendUnavailable
from django_broadcaster.store import Head, PendingRow

STRIKES: Final = 3
"""How often an event fails, with deliveries of others after each failure, before it is charged."""

STRIKES_IN_PARTS: Final = 9
"""The same where a part of the broker may be away, which takes longer to see."""

SPACING_SECONDS: Final = 0.5
"""Failures of an event that follow each other faster count once: a restart is no proof."""

PART: Final = 3
"""So many events that fail alone at the same time are a part of the broker that is away."""

MOST: Final = 1000
"""How many events are remembered; the oldest are forgotten."""

EXPIRY_SECONDS: Final = 900.0
"""What has not failed for so long is forgotten: the event may be cancelled."""

Unavailable = tuple[PendingRow, BackendUnavailable]


@dataclass(slots=True)
class _Doubt:
    """An event that failed as if the broker were away.

    `is_accused`: nothing has got through since. `rank` counts failures of all events. `company` is
    how many events were known to fail, this one among them, when it did last.
    """

    row: PendingRow
    error: BackendUnavailable
    rank: int
    company: int
    is_accused: bool = True
    strikes: int = 0
    at: float = 0.0

    def is_over(self, now: float) -> bool:
        """Return True if the event has not failed for long."""
        return not self.is_accused and now > self.at + EXPIRY_SECONDS


@dataclass(frozen=True, slots=True)
class Failure:
    """An event that fails alone: its row, its last error, and how often in a row it did.

    `rounds` is how often it was charged before. `is_part` says that other events fail in the same
    way, so that none of them is to blame.
    """

    row: PendingRow
    error: BackendUnavailable
    count: int
    rounds: int
    is_part: bool


class Doubts:
    """The events of one relay and backend that failed as if the broker were away.

    `in_parts`: a part of the broker can be away, with the events that are for it.
    """

    def __init__(
        self, *, in_parts: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._in_parts = in_parts
        self._strikes = STRIKES_IN_PARTS if in_parts else STRIKES
        self._clock = clock
        self._doubts: dict[int, _Doubt] = {}
        self._ranks: dict[str | int, int] = {}
        self._tried: dict[int, str] = {}
        self.passed = 0
        """Below this id every pending row was tried, except for transactions that commit late."""
        self._failures = 0

    # --- What to send ------------------------------------------------------------------------

    @property
    def tried(self) -> tuple[set[str], set[int]]:
        """Return the keys, and the rows without one, that failed since anything got through."""
        keys = {key for key in self._tried.values() if key}
        return keys, {row_id for row_id, key in self._tried.items() if not key}

    def start_over(self) -> None:
        """Let probes take the same events again: all were tried, or some got through."""
        self._tried.clear()
        self.look_again()

    def look_again(self) -> None:
        """Let the next probe look at all pending events."""
        self.passed = 0

    def has(self, row: PendingRow) -> bool:
        """Return True if the row, or another one of its key, failed."""
        return (row.partition_key or row.id) in self._ranks

    def last(self, rows: Sequence[PendingRow]) -> list[PendingRow]:
        """Return the rows with those that failed last, so that they stop no other.

        The one that failed most recently is the very last. Each key keeps its order.
        """
        if not self._ranks:
            return list(rows)
        return sorted(rows, key=lambda row: self._ranks.get(row.partition_key or row.id, 0))

    # --- What came of it ---------------------------------------------------------------------

    def note(self, published: Collection[PendingRow], first: Unavailable | None) -> list[Failure]:
        """Note what came of a delivery, and return the events that fail alone.

        `first` is the first event that was sent and failed as if the broker were away.
        """
        if not self._doubts and first is None:
            return []
        for row in published:
            self._doubts.pop(row.id, None)
        proven: list[Failure] = []
        if published:
            self.start_over()
            proven = self._judge()
        if first is not None and first[0].id not in {each.row.id for each in proven}:
            self._accuse(*first)
        self._rank()
        return proven

    def forget(self, row: PendingRow) -> None:
        """Note that an event was given up."""
        if self._doubts.pop(row.id, None):
            self._rank()

    def note_probe(self, rows: Iterable[Head | PendingRow]) -> None:
        """Note that nothing of a probe got through: the next one takes others."""
        if len(self._tried) >= MOST:
            self.start_over()
        self._tried |= {row.id: row.partition_key for row in rows}

    def _rank(self) -> None:
        doubts = self._doubts.values()
        self._ranks = {doubt.row.partition_key or doubt.row.id: doubt.rank for doubt in doubts}

    def _accuse(self, row: PendingRow, error: BackendUnavailable) -> None:
        self._failures += 1
        doubt = self._doubts.pop(row.id, None)
        strikes, at = (doubt.strikes, doubt.at) if doubt else (0, 0.0)
        bare = row._replace(data=None, data_binary=None, sealed=None)
        if len(self._doubts) >= MOST:
            del self._doubts[next(iter(self._doubts))]
        company = len(self._doubts) + 1
        doubt = _Doubt(bare, error, self._failures, company, strikes=strikes, at=at)
        self._doubts[row.id] = doubt
        self.note_probe([row])

    def _judge(self) -> list[Failure]:
        """Give a strike to each accused event: others got through after it failed."""
        now = self._clock()
        accused = [doubt for doubt in self._doubts.values() if doubt.is_accused]
        for doubt in accused:
            doubt.is_accused = False
            if doubt.strikes in range(1, self._strikes) and now < doubt.at + SPACING_SECONDS:
                continue
            doubt.strikes += 1
            doubt.at = now
        for row_id in [row_id for row_id, each in self._doubts.items() if each.is_over(now)]:
            del self._doubts[row_id]
        return [self._failure(each) for each in accused if each.strikes >= self._strikes]

    def _failure(self, doubt: _Doubt) -> Failure:
        return Failure(
            doubt.row,
            doubt.error,
            count=doubt.strikes,
            rounds=doubt.strikes - self._strikes,
            is_part=self._in_parts and doubt.company >= PART,
        )
