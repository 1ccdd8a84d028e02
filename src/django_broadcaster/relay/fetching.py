"""The size of one fetch: a number of events, and a number of bytes of their payloads.

A relay begins with few bytes and doubles them after each batch, up to OUTBOX_BATCH_BYTES. So a
relay that is killed for its use of memory delivers some events each time it is started.
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
        """Begin with few bytes again: another relay may have been killed for a large batch."""
        self._bytes = FIRST_BYTES
        self._limit = MOST_ROWS
        self._has_large = False

    def take_one(self) -> None:
        """Limit the next fetch to one event, and double the limit after each."""
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

        Their payloads have no more bytes than those of the rows `beside` them leave.
        """
        most = max(1, self._most - sum(map(size_of, beside)))
        wanted, limit = limit, min(limit, self._limit)
        each = max(1, most // limit)  # `limit` payloads of that size are no more than `most`
        fetch = self._rows.fetch
        found = None
        if not self._has_large:
            found = fetch(partitions, start, limit, most=most, each=each, timed=timed)
        if found is None or (found.is_cut and not found.rows):
            found = fetch(partitions, start, limit, most=most, timed=timed)
        self._has_large = found.is_cut or found.largest > each
        self._resize(found, len(beside))
        more = limit < wanted and len(found.rows) == limit
        return found._replace(is_cut=True) if more else found

    def fetch_fitting(
        self, partitions: Collection[int], ids: Collection[int], *, timed: bool = False
    ) -> tuple[Fetched, frozenset[int]]:
        """Return those of these rows that are pending there and fit into a batch.

        The second value are the ids that were left out, the highest ones.
        """
        asked = sorted(ids)[: self._limit]
        found = self._rows.fetch_by_id(partitions, asked, most=self._most, timed=timed)
        self._resize(found)
        if found.is_cut:
            asked = [row_id for row_id in asked if row_id <= found.rows[-1].id]
        return found, frozenset(ids).difference(asked)

    @property
    def _most(self) -> int:
        return min(self._bytes, conf.BATCH_BYTES)

    def _resize(self, found: Fetched, beside: int = 0) -> None:
        """Set the size of the next fetch by the result of this one."""
        if found.is_cut:
            self._limit = 2 * max(1, len(found.rows) + beside)
        else:
            self._limit = min(MOST_ROWS, 2 * self._limit)
        if found.rows:
            self._bytes = min(2 * self._bytes, conf.BATCH_BYTES)
