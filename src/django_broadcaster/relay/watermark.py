"""The lowest id that can still be undelivered, so that a fetch need not start at the beginning.

On PostgreSQL every delivered row leaves a dead entry in the index of pending rows. While any
session holds an old snapshot nothing cleans them up, and a fetch that starts at the head of the
index walks over all of them: a queue that was fast in the morning is slow by noon. So a relay
remembers up to which id everything is delivered, and starts there.

The risk is a transaction that has a low id and has not committed. A statement that takes an id
holds a lock on the table, from before the id until its transaction ends. So when every transaction
that held such a lock at some moment has ended, all ids seen before that moment are either visible
or will never be. Comparing transaction ids (`pg_snapshot_xmin`) is less strict, because an id is
taken from the sequence before its transaction has an id of its own. Besides, a long transaction on
other tables delays nothing here.

Rows below the start become pending again: a retry that is due, and the events that waited for it.
Their ids are kept and fetched individually. If the start were moved back to them, one old event in
retry would make each fetch walk over everything that was delivered since.

On the other databases fetches start at the beginning: SQLite has no dead rows, and MariaDB and
MySQL show their locks to administrators only.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from heapq import nsmallest

from django_broadcaster.store import RelayRows

from .batch import Batch
from .verdicts import Report

WORTH_CHECKING = 2000
"""Events delivered after the start from which on it is worth asking for the writers."""

MOST_AGAIN = 20_000
"""Ids of rows that are pending again that are kept; with more, a fetch may start at them."""

RESET_SECONDS = 60.0
"""How often a fetch starts at the beginning anyway, for rows that were changed by hand."""


class Watermark:
    """Where the fetches of one relay start."""

    def __init__(self, rows: RelayRows) -> None:
        self._rows = rows
        self._passed = 0
        self._delivered = 0
        self._candidate: int | None = None
        self._waits_for: frozenset[str] = frozenset()
        self._again: set[int] = set()
        self.reset()

    def reset(self) -> None:
        """Start at the beginning again: it is unknown which rows are pending."""
        self.start = 0
        self._again.clear()
        self._reset_at = time.monotonic()
        self._distrust()

    @property
    def has_again(self) -> bool:
        """Whether rows below the start are pending again."""
        return bool(self._again)

    def again(self, limit: int) -> tuple[list[int], bool]:
        """Return up to `limit` ids below the start, the lowest, of rows that are pending again.

        And return True if these are all. Otherwise nothing from the start on may be sent: it would
        overtake the others.
        """
        return nsmallest(limit, self._again), len(self._again) <= limit

    def pending_again(self, ids: Collection[int]) -> None:
        """Note that these rows were made pending; those from the start on are fetched anyway."""
        self._again.update(row_id for row_id in ids if row_id < self.start)
        if len(self._again) > MOST_AGAIN:
            self.start = min(self._again)
            self._again.clear()
            self._distrust()

    def check_writers(self) -> None:
        """Check, right before a fetch, whether writers that could commit below it have ended."""
        if time.monotonic() > self._reset_at + RESET_SECONDS:
            self.reset()
        if self._passed < WORTH_CHECKING:
            return
        writers = self._rows.writers()
        if writers is None:
            return
        if self._candidate is None:
            self._candidate, self._waits_for = self._delivered, writers
        else:
            self._waits_for &= writers

    def advance(self, batch: Batch, report: Report) -> None:
        """Move the start by what the fetch after `check_writers` found and delivered."""
        asked = set(batch.below) - batch.left_out
        if report.left:
            if asked:  # those that are not pending any more
                self._again -= asked.difference(row.id for row in batch.rows)
            self._distrust()
            return
        self._again -= asked
        if self._candidate is not None and not self._waits_for:
            # This fetch saw every row that can be below the candidate, as far as it went.
            end = self._candidate if batch.exhausted else min(self._candidate, batch.last_id)
            self.start = max(self.start, end + 1)
            self._candidate = None
            self._passed = 0
        self._delivered = max(self._delivered, batch.last_id)
        self._passed += report.settled

    def _distrust(self) -> None:
        """Forget what was delivered; the start stands."""
        self._delivered = 0
        self._candidate = None
        self._waits_for = frozenset()
