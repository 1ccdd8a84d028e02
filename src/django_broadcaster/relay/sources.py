"""Where the rows of a delivery come from: the backlog, or one event.

The third source is in `probing`.
"""

from __future__ import annotations

from django_broadcaster.store import Fetched

from .batch import NONE, Batch
from .owned import Owned
from .verdicts import Report


class Backlog:
    """The pending events of the own partitions, in the order of their ids.

    Rows below the watermark that are pending again come first. While there are more of them than
    fit into a batch, nothing after the watermark is fetched: it would overtake them.
    """

    def __init__(self, owned: Owned, limit: int, *, timed: bool) -> None:
        self._owned = owned
        self._limit = limit
        self._timed = timed

    def fetch(self) -> Batch:
        """Return at most `limit` pending rows; raises the database's errors."""
        owned = self._owned
        owned.watermark.check_writers()
        again, is_all = owned.watermark.again(self._limit)
        found, left_out = Fetched(), NONE
        if again:
            found, left_out = owned.fetcher.fetch_fitting(
                owned.partitions, again, timed=self._timed
            )
        before = [row for row in found.rows if row.id not in owned.locked]
        room = self._limit - len(before) if is_all and not left_out else 0
        after = Fetched()
        if room:
            start = owned.watermark.start
            after = owned.fetcher.fetch(
                owned.partitions, start, room, beside=before, timed=self._timed
            )
        return Batch(
            rows=[*before, *after.rows],
            due_since={**found.due_since, **after.due_since},
            below=again,
            left_out=left_out,
            last_id=after.rows[-1].id if after.rows else 0,
            exhausted=len(after.rows) < room and not after.is_cut,
        )

    def advance(self, batch: Batch, report: Report) -> None:
        """Move the watermark."""
        self._owned.watermark.advance(batch, report)


class OneEvent:
    """One event, if it is pending."""

    def __init__(self, owned: Owned, row_id: int, partition: int) -> None:
        self._owned = owned
        self._row_id = row_id
        self._partition = partition

    def fetch(self) -> Batch:
        """Return the event's row, or no row; raises the database's errors."""
        return Batch(rows=self._owned.rows.fetch_by_id({self._partition}, [self._row_id]).rows)

    def advance(self, batch: Batch, report: Report) -> None:
        """Do nothing: the event says nothing about the others."""
