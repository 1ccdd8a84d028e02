"""Pending rows as a relay reads them: plain tuples whose payloads stay text.

Building model instances would cost more than everything else that a relay does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from .backend_sql import PARTITION, BackendSQL
from .bounded_sql import BoundedSQL
from .sql import EVENTS, JSON_COLUMNS


class PendingRow(NamedTuple):
    """The columns of a pending event that a relay reads. JSON columns are undecoded text."""

    id: int
    partition_key: str
    event_id: str
    source: str
    event_type: str
    subject: str
    time: datetime | None
    data_content_type: str
    data_schema: str
    extensions: str
    data: str | None
    data_binary: bytes | None
    sealed: bytes | None
    publisher_config: str
    retry_count: int
    max_retries: int
    crash_count: int
    partition: int

    def without_payload(self) -> PendingRow:
        """Return the row without its payload, to be remembered."""
        return self._replace(data=None, data_binary=None, sealed=None)


_NAMES = (*PendingRow._fields[:-1], PARTITION)

_NAMES_AND_DUE = (*_NAMES, "scheduled_at")

_COLUMNS = ", ".join(f"{name}{{text}}" if name in JSON_COLUMNS else name for name in _NAMES)

_WIDTH = len(_NAMES)

UNBOUNDED = 2**40
"""A limit in bytes that no batch reaches."""


class Head(NamedTuple):
    """The id and the key of a pending row."""

    id: int
    partition_key: str


class Fetched(NamedTuple):
    """Fetched rows, in order.

    `is_cut` is True if the limit in bytes excluded rows. `largest` is the size of the largest
    payload, in bytes. `due_since` has the time from which on each row is due, by its id.
    """

    rows: Sequence[PendingRow] = ()
    is_cut: bool = False
    largest: int = 0
    due_since: Mapping[int, datetime] = MappingProxyType({})


@lru_cache(maxsize=32)
def _numbers(partitions: frozenset[int]) -> str:
    """Return a list of partitions for SQL; without any, a list of -1, which is not a partition."""
    return ", ".join(str(int(number)) for number in sorted(partitions)) or "-1"


class FetchSQL(BoundedSQL, BackendSQL):
    """Queries of pending rows."""

    def fetch(
        self,
        partitions: Collection[int],
        start: int,
        limit: int,
        *,
        most: int = UNBOUNDED,
        each: int | None = None,
        timed: bool = False,
    ) -> Fetched:
        """Return pending rows of the partitions, in order of their ids.

        Args:
            partitions: The numbers of the partitions.
            start: The lowest id.
            limit: Maximum of rows.
            most: Bytes of payload; the row that reaches them is the last one.
            each: If given, the result ends before the first payload with more bytes than this.
            timed: Whether to read the times at which rows were due, which costs a fetch 5 percent.
        """
        source = (
            f"FROM {EVENTS}{self._pending.hint} WHERE status = 'pending' "
            f"AND {self._pending.condition} "
            f"AND {self._in_partitions(frozenset(partitions))}{self._except_skipped()} "
            # With a parameter, PostgreSQL might keep a plan for any number of rows.
            f"ORDER BY {self._pending.order} LIMIT {int(limit)}"
        )
        alias = [self.alias, start, self.alias]
        found, sizes, is_cut = self._select_within(
            _NAMES_AND_DUE if timed else _NAMES,
            source,
            [*alias, *self._values_of_skipped()],
            order=self._pending.order,
            most=most,
            each=each,
        )
        return self._fetched(found, sizes, is_cut, timed=timed)

    def _in_partitions(self, partitions: frozenset[int]) -> str:
        """Return the condition that a row is in these partitions, which rarely change."""
        if self._postgres:
            return f"{PARTITION} = ANY('{{{_numbers(partitions)}}}')"
        return f"{PARTITION} IN ({_numbers(partitions)})"

    def pending_of(self, ids: Collection[int]) -> set[int]:
        """Return the ids whose rows are pending."""
        sql = f"SELECT id FROM {self._by_id} WHERE {self._in('id', ids)} "
        rows = self._select(f"{sql}AND {self._has_status('pending')}", self._values(ids))
        return {row_id for (row_id,) in rows}

    def heads(
        self,
        partitions: Collection[int],
        start: int,
        limit: int,
        keys: Collection[str],
        ids: Collection[int],
    ) -> list[Head]:
        """Return the first pending rows from id `start` on, except these keys and these ids."""
        avoided, values = "", []
        for column, others in (("partition_key", keys), ("id", ids)):
            if others:
                avoided += f" AND NOT ({self._in(column, others)})"
                values += self._values(others)
        sql = (
            f"SELECT id, partition_key FROM {EVENTS}{self._pending.hint} WHERE status = 'pending' "
            f"AND {self._pending.condition} AND {self._in(PARTITION, partitions)}{avoided}"
            f"{self._except_skipped()} ORDER BY {self._pending.order} LIMIT %s"
        )
        alias = [self.alias, start, self.alias]
        numbers = self._values(partitions)
        params = [*alias, *numbers, *values, *self._values_of_skipped(), limit]
        return [Head._make(row) for row in self._select(sql, params)]

    def last_id(self) -> int:
        """Return the highest id in the outbox; 0 if it is empty."""
        return self._select(f"SELECT MAX(id) FROM {EVENTS}", [])[0][0] or 0

    def fetch_by_id(
        self,
        partitions: Collection[int],
        ids: Collection[int],
        *,
        most: int = UNBOUNDED,
        timed: bool = False,
    ) -> Fetched:
        """Return the rows with these ids that are pending in the partitions, as `fetch` does."""
        source = (
            f"FROM {self._by_id} WHERE {self._in('id', ids)} "
            f"AND {self._has_status('pending')} AND {self._in(PARTITION, partitions)} ORDER BY id"
        )
        params = [*self._values(ids), *self._values(partitions)]
        names = _NAMES_AND_DUE if timed else _NAMES
        found, sizes, is_cut = self._select_within(
            names, source, params, order="id", most=most, each=None
        )
        return self._fetched(found, sizes, is_cut, timed=timed)

    def read(self, row_id: int) -> PendingRow | None:
        """Return the row with an id in any status; None if it does not exist."""
        columns = _COLUMNS.format(text="::text" if self._postgres else "")
        sql = f"SELECT {columns} FROM {EVENTS} WHERE id = %s"
        found = self._as_rows(self._select(sql, [row_id]))
        return found[0] if found else None

    def _fetched(
        self, found: Sequence[Any], sizes: Sequence[int], is_cut: bool, *, timed: bool
    ) -> Fetched:
        due_since = {row[0]: self._aware(row[_WIDTH]) for row in found} if timed else {}
        return Fetched(self._as_rows(found), is_cut, max(sizes, default=0), due_since)

    def _as_rows(self, selected: Sequence[Any]) -> list[PendingRow]:
        """Return the columns of `_NAMES` as rows, without further columns."""
        found = [PendingRow._make(row[:_WIDTH]) for row in selected]
        if self._reads_as_is:
            return found
        return [row._replace(**self._converted(row)) for row in found]

    def _converted(self, row: PendingRow) -> dict[str, Any]:
        """Return the values of columns that drivers return in different forms."""
        binary = row.data_binary  # a memoryview of psycopg2's
        return {
            "time": row.time and self._aware(row.time),
            "data_binary": None if binary is None else bytes(binary),
        }
