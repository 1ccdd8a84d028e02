"""How much one fetch takes: events up to a number, and their payloads up to a number of bytes.

A relay begins with few bytes and takes twice as many after each batch, up to OUTBOX_BATCH_BYTES.
So one that is killed for the memory that it takes gets something delivered each time it is started.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from django_broadcaster.conf import conf
from django_broadcaster.store import Fetched, PendingRow, RelayRows, size_of

FIRST_BYTES = 1_000_000
"""Bytes of the first batch."""

MOST_ROWS = 1_000_000
"""More than any batch has."""


class Fetcher:
    """Fetches the batches of one relay, one after the other."""

    def __init__(self, rows: RelayRows) -> None:
        self._rows = rows
        self.reset()

    def reset(self) -> None:
        """Begin with few bytes again: a relay may have died of what it fetched."""
        self._bytes = FIRST_BYTES
        self._limit = MOST_ROWS
        self._has_large = False

    def take_one(self) -> None:
        """Let the next fetch take one event, and those after it twice as many each."""
        self._limit = 1

    def fetch(
        self,
        partitions: Collection[int],
        start: int,
        limit: int,
        *,
        beside: Sequence[PendingRow] = (),
        timed: bool = False,
    ) -> Fetched:
        """Return pending rows of those partitions from id `start` on, in order of their ids.

        They take no more bytes than those `beside` them leave.
        """
        most = max(1, self._most - sum(map(size_of, beside)))
        wanted, limit = limit, min(limit, self._limit)
        each = max(1, most // limit)  # so many of that size are no more than `most`
        fetch = self._rows.fetch
        found = None
        if not self._has_large:
            found = fetch(partitions, start, limit, most=most, each=each, timed=timed)
        if found is None or (found.is_cut and not found.rows):
            found = fetch(partitions, start, limit, most=most, timed=timed)
        self._has_large = found.is_cut or found.largest > each
        self._note(found, len(beside))
        more = limit < wanted and len(found.rows) == limit
        return found._replace(is_cut=True) if more else found

    def fetch_these(
        self, partitions: Collection[int], ids: Collection[int]
    ) -> tuple[list[PendingRow], frozenset[int]]:
        """Return those of these rows that are pending there, and the ids that were left out.

        These are the highest ones, where all would be too much.
        """
        asked = sorted(ids)[: self._limit]
        found = self._rows.fetch_these(partitions, asked, most=self._most)
        self._note(found)
        if found.is_cut:
            asked = [row_id for row_id in asked if row_id <= found.rows[-1].id]
        return list(found.rows), frozenset(ids).difference(asked)

    @property
    def _most(self) -> int:
        return min(self._bytes, conf.BATCH_BYTES)

    def _note(self, found: Fetched, beside: int = 0) -> None:
        """Decide by what was found how much the next fetch may take."""
        if found.is_cut:
            self._limit = 2 * max(1, len(found.rows) + beside)
        elif found.rows:
            self._limit = min(MOST_ROWS, 2 * self._limit)
        if found.rows:
            self._bytes = min(2 * self._bytes, conf.BATCH_BYTES)
