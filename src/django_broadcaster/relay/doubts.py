"""Events that fail while others are delivered: what looks like an outage may be one event.

A backend cannot know whether its broker is unavailable: an endpoint that answers one event with
503, or never, looks like one that is down. The other events show the difference. It is remembered
here, in memory, and found out again after a restart.
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
"""The same if a part of the broker may be unavailable, which takes longer to see."""

SPACING_SECONDS: Final = 0.5
"""Failures of an event that follow each other faster count once: a restart proves nothing."""

PART: Final = 3
"""This many events that fail alone at the same time: a part of the broker is unavailable."""

SCAN_SECONDS: Final = 0.5
"""Seconds between scans of all pending events, while every one of them was tried."""

SCAN_SHARE: Final = 100
"""The pause after such a scan, as a multiple of the time that it took."""

MOST: Final = 1000
"""How many events are remembered; the oldest are forgotten."""

EXPIRY_SECONDS: Final = 900.0
"""An event that has not failed for this long is forgotten: it may have been cancelled."""

Unavailable = tuple[PendingRow, BackendUnavailable]


@dataclass(slots=True)
class _Doubt:
    """An event that failed as if the broker were unavailable.

    `is_accused`: no other event was delivered since. `rank` counts the failures of all events.
    `company` is how many events were known to fail, including this one, at its last failure.
    """

    row: PendingRow
    error: BackendUnavailable
    rank: int
    company: int
    is_accused: bool = True
    strikes: int = 0
    at: float = 0.0

    def is_over(self, now: float) -> bool:
        """Return True if the event has not failed for a long time."""
        return not self.is_accused and now > self.at + EXPIRY_SECONDS


@dataclass(frozen=True, slots=True)
class LoneFailure:
    """An event that fails alone: its row, its last error, and how often in a row it did.

    `charges` is how often it was charged with it before. `is_part` is True if other events fail in
    the same way, so that none of them is the cause.
    """

    row: PendingRow
    error: BackendUnavailable
    count: int
    charges: int
    is_part: bool


class Doubts:
    """The events of one relay and backend that failed as if the broker were unavailable.

    `in_parts`: a part of the broker can be unavailable, for its own events.
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
        self._start = 0
        self._scans_at = 0.0
        self._failures = 0

    # --- Which events to send ----------------------------------------------------------------

    @property
    def tried(self) -> tuple[set[str], set[int]]:
        """Return the keys, and the rows without one, that failed since the last success."""
        keys = {key for key in self._tried.values() if key}
        return keys, {row_id for row_id, key in self._tried.items() if not key}

    def start_over(self) -> None:
        """Let probes send the same events again: all were tried, or some were delivered."""
        self._tried.clear()
        self.scan_again()

    def scan_again(self) -> None:
        """Let the next probe scan all pending events."""
        self._start = 0

    @property
    def start(self) -> int:
        """The id from which on a probe looks for new events; 0 if it scans all of them."""
        return self._start if self._clock() < self._scans_at else 0

    def found_none_up_to(self, last: int, *, seconds: float) -> None:
        """Note that a scan of all events, which took `seconds`, found none that was not tried."""
        self._start = last + 1
        self._scans_at = self._clock() + max(SCAN_SECONDS, SCAN_SHARE * seconds)

    def has(self, row: PendingRow) -> bool:
        """Return True if the row, or another one of its key, failed."""
        return (row.partition_key or row.id) in self._ranks

    def last(self, rows: Sequence[PendingRow]) -> list[PendingRow]:
        """Return the rows with those that failed at the end, so that they stop no other.

        The one that failed most recently is the last. Each key keeps its order.
        """
        if not self._ranks:
            return list(rows)
        return sorted(rows, key=lambda row: self._ranks.get(row.partition_key or row.id, 0))

    # --- What became of them ---------------------------------------------------------------------

    def update(
        self, published: Collection[PendingRow], first: Unavailable | None
    ) -> list[LoneFailure]:
        """Take in the outcome of a delivery, and return the events that fail alone.

        `first` is the first event that was sent and failed as if the broker were unavailable.
        """
        if not self._doubts and first is None:
            return []
        for row in published:
            self._doubts.pop(row.id, None)
        proven: list[LoneFailure] = []
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

    def mark_tried(self, rows: Iterable[Head | PendingRow]) -> None:
        """Let the next probe send other events than these, which were tried without success."""
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
        if len(self._doubts) >= MOST:
            del self._doubts[next(iter(self._doubts))]
        company = len(self._doubts) + 1
        doubt = _Doubt(
            row.without_payload(), error, self._failures, company, strikes=strikes, at=at
        )
        self._doubts[row.id] = doubt
        self.mark_tried([row])

    def _judge(self) -> list[LoneFailure]:
        """Give a strike to each accused event: others were delivered after it failed."""
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

    def _failure(self, doubt: _Doubt) -> LoneFailure:
        return LoneFailure(
            doubt.row,
            doubt.error,
            count=doubt.strikes,
            charges=doubt.strikes - self._strikes,
            is_part=self._in_parts and doubt.company >= PART,
        )
