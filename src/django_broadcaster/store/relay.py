"""The rows of one backend as a relay reads and moves them, in SQL.

Plain tuples instead of model instances, and payloads that stay text: building instances would
cost more than everything else that a relay does. Every statement that changes a row carries the
fence: it changes nothing once the relay's lease has gone. Each is complete in itself, so a crash
between two of them loses nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from django_broadcaster.conf import conf

from .bounded_sql import BoundedSQL
from .clock import DatabaseClock
from .relay_sql import IN_ORDER, batched, thousands
from .sql import (
    ALIVE,
    ATTEMPTS,
    BACKENDS,
    EVENTS,
    FREE_PARTITIONS,
    JSON_COLUMNS,
    OPERATIONS,
    RELAYS,
)


class PendingRow(NamedTuple):
    """What a relay reads of a pending event. JSON columns are text, undecoded."""

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


_PARTITION = f"{EVENTS}.partition"  # the word alone is reserved on MariaDB and MySQL

_NAMES = (*PendingRow._fields[:-1], _PARTITION)

_NAMES_AND_DUE = (*_NAMES, "scheduled_at")

_COLUMNS = ", ".join(f"{name}{{text}}" if name in JSON_COLUMNS else name for name in _NAMES)

_WIDTH = len(_NAMES)

UNBOUNDED = 2**40
"""Bytes that no batch has."""


class Head(NamedTuple):
    """A pending row, and its key."""

    id: int
    partition_key: str


class Fetched(NamedTuple):
    """Rows that were fetched, in order.

    `is_cut` says that rows were left out for the size of their payloads, and `largest` is the size
    of the largest of those here, in bytes. `due` is since when each has been due, by its id.
    """

    rows: Sequence[PendingRow] = ()
    is_cut: bool = False
    largest: int = 0
    due: Mapping[int, datetime] = MappingProxyType({})


class Pulse(NamedTuple):
    """What an idle relay wants to know: what is pending or due, who is there, is it paused.

    `overdue`: whether a relay has had no heartbeat for the time of a lease.
    `operation`: whether events are to be moved in the background.
    """

    pending: bool
    due: bool
    relays: int
    overdue: bool
    free_partitions: int
    is_paused: bool
    operation: bool


class _Pending(NamedTuple):
    """How a fetch keeps to the index of pending rows: a hint, a condition and an order.

    With stale statistics the primary key looks as good, and a fetch would walk over all delivered
    rows; or a sort looks cheap, and a fetch would read the whole backlog.
    """

    hint: str
    condition: str
    order: str


_PENDING = {
    # Its primary key can't give the order of both columns of a range.
    "postgresql": _Pending(
        IN_ORDER,
        "(publisher_backend, id) >= (%s, %s) AND publisher_backend <= %s",
        "publisher_backend, id",
    ),
    # It sorts if the order names a column of text, though that has one value.
    "mysql": _Pending(
        " FORCE INDEX (broadcaster_pending)",
        "publisher_backend = %s AND id >= %s AND publisher_backend = %s",
        "id",
    ),
    "sqlite": _Pending(
        " INDEXED BY broadcaster_pending",
        "publisher_backend = %s AND id >= %s AND publisher_backend = %s",
        "id",
    ),
}

_KEYS = 50
"""Keys of one statement on the databases where each key takes a query of its own."""


@lru_cache(maxsize=32)
def _numbers(partitions: frozenset[int]) -> str:
    """Return a list of partitions for SQL; without any, the list of -1, which is none."""
    return ", ".join(str(int(number)) for number in sorted(partitions)) or "-1"


class RelayRows(BoundedSQL):
    """The rows of one backend as the relay that holds lease `relay_id` may read and move them."""

    def __init__(
        self,
        using: str,
        backend: str,
        relay_id: int,
        clock: DatabaseClock | None = None,
        timeline: str | None = None,
    ) -> None:
        super().__init__(using, relay_id, clock, timeline)
        self.backend = backend
        self.ignored: Collection[int] = ()
        """Ids of pending rows that are neither fetched nor counted: their delivery is done."""
        self.held_keys: Collection[str] = ()
        """Keys that wait for one of these rows: nothing of them is released."""
        self._columns = _COLUMNS.format(text="::text" if self._postgres else "")
        self._pending = _PENDING[self._connection.vendor]
        # MariaDB would sort the events of two statuses, and any of them will do.
        mysql = self._connection.vendor == "mysql"
        self._by_due = "" if mysql else " ORDER BY scheduled_at, id"
        hints = {"postgresql": IN_ORDER, "mysql": " FORCE INDEX (broadcaster_due)"}
        self._due_hint = hints.get(self._connection.vendor, "")
        self._any_due = (
            f"SELECT 1 FROM {EVENTS}{self._due_hint} WHERE publisher_backend = %s "
            "AND status IN ('scheduled', 'retry') AND scheduled_at <= %s"
        )
        self._paused = f"SELECT 1 FROM {BACKENDS} WHERE backend = %s AND paused_at IS NOT NULL"

    # Reading

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
        """Return pending rows of those partitions from id `start` on, in order of their ids.

        They end with the first that brings their payloads to `most` bytes, or, given `each`, before
        the first that has more. If it is `timed`, since when they have been due is read as well: a
        moment more costs a fetch 5 percent, so that only a few ask for it.
        """
        source = (
            f"FROM {EVENTS}{self._pending.hint} WHERE status = 'pending' "
            f"AND {self._pending.condition} "
            f"AND {self._in_partitions(frozenset(partitions))}{self._except_ignored()} "
            # A parameter would let PostgreSQL keep a plan for any number of rows.
            f"ORDER BY {self._pending.order} LIMIT {int(limit)}"
        )
        backend = [self.backend, start, self.backend]
        found, sizes, is_cut = self._select_within(
            _NAMES_AND_DUE if timed else _NAMES,
            source,
            [*backend, *self._values_of_ignored()],
            order=self._pending.order,
            most=most,
            each=each,
        )
        return self._fetched(found, sizes, is_cut, timed=timed)

    def _in_partitions(self, partitions: frozenset[int]) -> str:
        """Return the condition that a row is in these partitions, which change seldom."""
        if self._postgres:
            return f"{_PARTITION} = ANY('{{{_numbers(partitions)}}}')"
        return f"{_PARTITION} IN ({_numbers(partitions)})"

    def _except_ignored(self) -> str:
        """Return the condition that leaves out the rows in `ignored`, if there are any."""
        return f" AND NOT ({self._in('id', self.ignored)})" if self.ignored else ""

    def _values_of_ignored(self) -> list[Any]:
        return self._values(self.ignored) if self.ignored else []

    def pending_of(self, ids: Collection[int]) -> set[int]:
        """Return those of these ids whose rows are pending."""
        sql = f"SELECT id FROM {self._by_id} WHERE {self._in('id', ids)} "
        rows = self._select(f"{sql}AND {self._stands_in('pending')}", self._values(ids))
        return {row_id for (row_id,) in rows}

    def heads(
        self,
        partitions: Collection[int],
        start: int,
        limit: int,
        keys: Collection[str],
        ids: Collection[int],
    ) -> list[Head]:
        """Return the first pending rows from id `start` on, without these keys and these rows."""
        avoided, values = "", []
        for column, others in (("partition_key", keys), ("id", ids)):
            if others:
                avoided += f" AND NOT ({self._in(column, others)})"
                values += self._values(others)
        sql = (
            f"SELECT id, partition_key FROM {EVENTS}{self._pending.hint} WHERE status = 'pending' "
            f"AND {self._pending.condition} AND {self._in(_PARTITION, partitions)}{avoided}"
            f"{self._except_ignored()} ORDER BY {self._pending.order} LIMIT %s"
        )
        backend = [self.backend, start, self.backend]
        numbers = self._values(partitions)
        params = [*backend, *numbers, *values, *self._values_of_ignored(), limit]
        return [Head._make(row) for row in self._select(sql, params)]

    def last_id(self) -> int:
        """Return the highest id in the outbox; 0 if it is empty."""
        return self._select(f"SELECT MAX(id) FROM {EVENTS}", [])[0][0] or 0

    def fetch_these(
        self,
        partitions: Collection[int],
        ids: Collection[int],
        *,
        most: int = UNBOUNDED,
        timed: bool = False,
    ) -> Fetched:
        """Return those of these rows that are pending in those partitions, as `fetch` does."""
        source = (
            f"FROM {self._by_id} WHERE {self._in('id', ids)} "
            f"AND {self._stands_in('pending')} AND {self._in(_PARTITION, partitions)} ORDER BY id"
        )
        params = [*self._values(ids), *self._values(partitions)]
        found, sizes, is_cut = self._select_within(
            _NAMES_AND_DUE if timed else _NAMES, source, params, order="id", most=most, each=None
        )
        return self._fetched(found, sizes, is_cut, timed=timed)

    def read(self, row_id: int) -> PendingRow | None:
        """Return the row with that id in whatever state, as a relay reads it; None without it."""
        sql = f"SELECT {self._columns} FROM {EVENTS} WHERE id = %s"
        found = self._as_rows(self._select(sql, [row_id]))
        return found[0] if found else None

    def _fetched(
        self, found: Sequence[Any], sizes: Sequence[int], is_cut: bool, *, timed: bool
    ) -> Fetched:
        due = {row[0]: self._aware(row[_WIDTH]) for row in found} if timed else {}
        return Fetched(self._as_rows(found), is_cut, max(sizes, default=0), due)

    def _as_rows(self, selected: Sequence[Any]) -> list[PendingRow]:
        """Return rows of `_NAMES`, whatever stands behind these, as our own."""
        found = [PendingRow._make(row[:_WIDTH]) for row in selected]
        if self._reads_as_is:
            return found
        return [row._replace(**self._converted(row)) for row in found]

    def _converted(self, row: PendingRow) -> dict[str, Any]:
        """Return the columns that the driver gives in another form, in ours."""
        binary = row.data_binary  # a memoryview of psycopg2's
        return {
            "time": row.time and self._aware(row.time),
            "data_binary": None if binary is None else bytes(binary),
        }

    def waiting_keys(
        self, partitions: Collection[int], keys: Collection[str] | None = None
    ) -> dict[str, int]:
        """Return each blocked key, or those of `keys`, with the first of its events that waits."""
        if keys is None:
            waiting, values = self._waiting(partitions)
        elif len(keys) > _KEYS and not self._postgres:
            known: dict[str, int] = {}
            for some in batched(keys, _KEYS):
                known |= self.waiting_keys(partitions, some)
            return known
        else:
            waiting, values = self._waiting_of(keys, partitions, 1)
        return dict(
            self._select(f"SELECT name, MIN(id) FROM ({waiting}) AS w GROUP BY name", values)
        )

    def pulse(self, partitions: Collection[int], start: int) -> Pulse:
        """Look in one statement whether anything is to be done."""
        mine = self._in(_PARTITION, partitions)
        alive = ALIVE[self._connection.vendor]
        sql = (
            f"SELECT (SELECT 1 FROM {EVENTS}{self._pending.hint} WHERE status = 'pending' "
            f"AND {self._pending.condition} AND {mine}{self._except_ignored()} "
            f"ORDER BY {self._pending.order} LIMIT 1), "
            f"({self._any_due} AND {mine}{self._by_due} LIMIT 1), "
            f"(SELECT COUNT(*) FROM {RELAYS} WHERE backend = %s), "
            f"(SELECT 1 FROM {RELAYS} WHERE backend = %s AND NOT {alive} LIMIT 1), "
            f"({FREE_PARTITIONS}), "
            f"({self._paused}), "
            f"(SELECT 1 FROM {OPERATIONS} WHERE state IN ('waiting', 'running') LIMIT 1)"
        )
        numbers = self._values(partitions)
        pending = [self.backend, start, self.backend, *numbers, *self._values_of_ignored()]
        due = [self.backend, self._now(), *numbers]
        relays = [self.backend, self.backend, float(conf.LEASE_SECONDS)]
        rest = [self.backend, conf.PARTITIONS, self.backend]
        ((has_pending, has_due, count, is_overdue, free, is_paused, operation),) = self._select(
            sql, [*pending, *due, *relays, *rest]
        )
        return Pulse(
            bool(has_pending),
            bool(has_due),
            count,
            bool(is_overdue),
            free,
            bool(is_paused),
            bool(operation),
        )

    def is_paused(self) -> bool:
        """Tell whether an operator has paused the backend."""
        return bool(self._select(self._paused, [self.backend]))

    def writers(self) -> frozenset[str] | None:
        """Return the transactions of others that may have been given ids; None if unknown.

        A statement that inserts locks the table before it takes an id from the sequence.
        """
        if not self._postgres:
            return None
        sql = (
            "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'relation' "
            f"AND relation = '{EVENTS}'::regclass AND pid IS DISTINCT FROM pg_backend_pid() "
            "AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', "
            "'AccessExclusiveLock')"
        )
        return frozenset(row[0] for row in self._select(sql, []))

    def has_due(self) -> bool:
        """Tell whether the backend has an event that is due, whoever owns its partition."""
        sql = (
            f"SELECT (SELECT 1 FROM {EVENTS}{self._pending.hint} WHERE publisher_backend = %s "
            f"AND status = 'pending' ORDER BY {self._pending.order} LIMIT 1), "
            f"({self._any_due}{self._by_due} LIMIT 1)"
        )
        return any(self._select(sql, [self.backend, self.backend, self._now()])[0])

    # Settling a delivery: out of `pending`

    def published(self, ids: Collection[int], *, keep: bool) -> int:
        """Mark pending rows as published, or delete them unless `keep`; return how many."""
        if keep:
            now = self._now()
            return self._move(ids, "pending", "published", published_at=now, updated_at=now)

        def delete(ids: Collection[int]) -> int:
            sql = (
                f"DELETE {self._deleted}FROM {self._by_id} WHERE {self._in('id', ids)} "
                f"AND {self._stands_in('pending')}{self._fence}"
            )
            return self._change(sql, [*self._values(ids), self.relay_id])

        return self._skipping_locked(ids, delete)

    def retry(self, failures: Sequence[tuple[int, float, str, int]]) -> int:
        """Let pending rows wait for their next attempt; return how many.

        A failure is the row's id, the seconds to wait, the error's text, and the retries that it
        costs, 1 or 0.
        """
        now = self.clock.now()
        ids, dues, errors, spent = zip(
            *(
                (row_id, self._adapt(now + timedelta(seconds=delay)), self._text(error), costs)
                for row_id, delay, error, costs in failures
            ),
            strict=True,
        )
        changes = "status = 'retry', crash_count = 0"
        if self._postgres:
            return self._move_each(
                f"{changes}, scheduled_at = v.due, last_error = v.error, "
                "retry_count = retry_count + v.spent",
                "%s::bigint[], %s::timestamptz[], %s::text[], %s::int[]",
                "id, due, error, spent",
                [ids, dues, errors, spent],
            )
        return self._move_each_by_case(
            f"{changes}, scheduled_at = {{case}}, last_error = {{case}}, "
            "retry_count = retry_count + {case}",
            [ids, dues, errors, spent],
        )

    def bury(self, failures: Sequence[tuple[int, str]]) -> int:
        """Make pending rows dead letters, in one statement; return how many.

        A failure is the row's id and the error's text.
        """
        ids = [row_id for row_id, _ in failures]
        errors = [self._text(error) for _, error in failures]
        ends = [self._now()] * len(ids)
        if self._postgres:
            return self._move_each(
                "status = 'failed', last_error = v.error, ended_at = v.ended_at",
                "%s::bigint[], %s::text[], %s::timestamptz[]",
                "id, error, ended_at",
                [ids, errors, ends],
            )
        changes = "status = 'failed', last_error = {case}, ended_at = {case}"
        return self._move_each_by_case(changes, [ids, errors, ends])

    def expire(self, ids: Collection[int]) -> int:
        """Cancel pending rows whose `expirytime` has passed; return how many."""
        error = "Expired: its expirytime had passed before it could be sent"
        now = self._now()
        return self._move(
            ids, "pending", "cancelled", last_error=error, ended_at=now, updated_at=now
        )

    def note_attempts(self, relay: str, attempts: Sequence[tuple[int, int, str]]) -> None:
        """Write down attempts that failed: the row's id, the attempt's number, and the error.

        Not fenced: they have happened, whoever owns the rows now.
        """
        now = self._now()
        names = [self._connection.ops.quote_name(name) for name in ("row", "number")]
        into = f"INSERT INTO {ATTEMPTS} ({', '.join(names)}, attempted_at, relay, error)"
        for rows in thousands(attempts):
            values = ", ".join(["(%s, %s, %s, %s, %s)"] * len(rows))
            params = [
                value
                for row_id, number, error in rows
                for value in (row_id, number, now, relay, self._text(error))
            ]
            self._execute(f"{into} VALUES {values}", params)

    def block(self, ids: Collection[int]) -> int:
        """Let pending rows wait behind an earlier one of their key; return how many."""
        return self._move(ids, "pending", "blocked")

    # Maintenance: into `pending`

    def promote(self, partitions: Collection[int], limit: int) -> list[tuple[int, str]]:
        """Make rows pending that have become due; return their ids and keys."""
        with self._choosing() as skip_locked:
            rows = self._due(partitions, limit, skip_locked)
            ids = [row_id for row_id, _ in rows]
            if ids:
                self._move(ids, "scheduled", "pending")
                self._move(ids, "retry", "pending")
        return rows

    def _due(self, partitions: Collection[int], limit: int, lock: str) -> list[tuple[int, str]]:
        """Return the first rows that have become due: their ids and keys."""
        sql = (
            f"SELECT id, partition_key, scheduled_at FROM {EVENTS}{self._due_hint} "
            f"WHERE publisher_backend = %s AND {{status}} AND scheduled_at <= %s "
            f"AND {self._in(_PARTITION, partitions)} ORDER BY scheduled_at, id LIMIT %s{lock}"
        )
        params = [self.backend, self._now(), *self._values(partitions), limit]
        if self._connection.vendor != "mysql":
            rows = self._select(sql.format(status="status IN ('scheduled', 'retry')"), params)
        else:  # whose index gives the order within one status
            each = [sql.format(status=f"status = '{name}'") for name in ("scheduled", "retry")]
            union = " UNION ALL ".join(f"({one})" for one in each)
            last = f"{union} ORDER BY scheduled_at, id LIMIT %s"
            rows = self._select(last, [*params, *params, limit])
        return [(row_id, key) for row_id, key, _ in rows]

    def release(
        self, partitions: Collection[int], limit: int, keys: Collection[str] | None = None
    ) -> list[tuple[int, str]]:
        """Make blocked rows pending that stand behind nothing in retry; return ids and keys.

        Of each key its first rows are released. Asked for `keys`, it takes the same number of each.
        Keys in `held_keys` are left alone.
        """
        if keys is not None:
            keys = [key for key in keys if key not in self.held_keys]
            if not keys:
                return []
            if len(keys) > _KEYS and not self._postgres:
                share = max(_KEYS, limit * _KEYS // len(keys))
                parts = [self.release(partitions, share, some) for some in batched(keys, _KEYS)]
                return sorted(row for part in parts for row in part)
        if keys is None:
            first = limit
            waiting, values = self._waiting(partitions)
            if self.held_keys:
                waiting += f" AND NOT ({self._in('partition_key', self.held_keys)})"
                values += self._values(self.held_keys)
        else:
            first = max(1, limit // len(keys))
            waiting, values = self._waiting_of(keys, partitions, first)
        sql = (
            "SELECT id, name FROM (SELECT id, name, SUM(CASE WHEN status = 'retry' THEN 1 ELSE 0 "
            "END) OVER (PARTITION BY name ORDER BY id) AS heads, "
            "ROW_NUMBER() OVER (PARTITION BY name ORDER BY id) AS place "
            f"FROM ({waiting}) AS w) AS r WHERE heads = 0 AND place <= %s ORDER BY id LIMIT %s"
        )
        rows = self._select(sql, [*values, first, max(limit, len(keys or ()))])
        move = self._moving("blocked", "pending")

        def release(ids: Collection[int]) -> int:
            free, waiting = set(ids), set()
            for row_id, name in rows:
                if row_id not in free:
                    waiting.add(name)  # nothing of a key overtakes a row that is locked
                elif name in waiting:
                    free.discard(row_id)
            return move(sorted(free)) if free else 0

        if rows:
            self._skipping_locked([row_id for row_id, _ in rows], release)
        return rows

    def hasten(self, ids: Collection[int]) -> set[int]:
        """Make rows in retry due now; return the ids of those that another transaction locked."""
        now, locked = self._now(), set()
        for some in batched(sorted(ids), 1000):
            moved = self._move(some, "retry", "retry", scheduled_at=now)
            if moved < len(some) and self.is_careful:
                locked |= self._due_after(now, some)
        return locked

    def _due_after(self, moment: Any, ids: Collection[int]) -> set[int]:
        """Return those of these ids whose rows are in retry and due later than a moment."""
        sql = (
            f"SELECT id FROM {self._by_id} WHERE {self._in('id', ids)} "
            f"AND {self._stands_in('retry')} AND scheduled_at > %s"
        )
        return {row_id for (row_id,) in self._select(sql, [*self._values(ids), moment])}

    def count_crash(
        self, first: int, last: int, partitions: Collection[int], only: Collection[int] = ()
    ) -> int:
        """Note that a relay died while it delivered the pending rows of a range of ids.

        With `only`, these ids alone.

        Called in a transaction. Rows that another one has locked are left out: the lease of a dead
        relay must end at once.
        """
        these = f" AND {self._in('id', only)}" if only else ""
        sql = (
            f"SELECT id FROM {EVENTS} WHERE publisher_backend = %s AND status = 'pending' "
            f"AND id BETWEEN %s AND %s AND {self._in(_PARTITION, partitions)}{these} ORDER BY id"
        )
        numbers = self._values(partitions)
        params = [self.backend, first, last, *numbers, *(self._values(only) if only else ())]
        ids = [row_id for (row_id,) in self._select(f"{sql}{self._skip_locked}", params)]
        if not ids:
            return 0
        count = f"UPDATE {self._by_id} SET crash_count = crash_count + 1, updated_at = %s "
        where = f"WHERE {self._in('id', ids)}"
        return self._execute(f"{count}{where}", [self._now(), *self._values(ids)])

    # The rows of blocked keys, as part of a statement

    def _waiting(self, partitions: Collection[int], hint: str = "") -> tuple[str, list[Any]]:
        """Return a query for the rows of all blocked keys, and its parameters."""
        sql = (
            f"SELECT id, partition_key AS name, status FROM {EVENTS}{hint} "
            "WHERE publisher_backend = %s AND status IN ('retry', 'blocked') "
            f"AND {self._in(_PARTITION, partitions)} AND partition_key <> ''"
        )
        return sql, [self.backend, *self._values(partitions)]

    def _waiting_of(
        self, keys: Collection[str], partitions: Collection[int], first: int
    ) -> tuple[str, list[Any]]:
        """Return a query for the first so many, or more, rows of these keys, and its parameters.

        PostgreSQL may believe for a while that there is next to nothing to find, and then reads
        all blocked keys for each row that it looks at. This leaves it no choice but the index.
        """
        if not self._postgres:
            return self._waiting_of_each(keys, partitions, first)
        sql, values = self._waiting(partitions, IN_ORDER)
        return (
            f"SELECT w.* FROM unnest(%s::text[]) AS k(wanted) CROSS JOIN LATERAL ({sql} "
            f"AND partition_key = k.wanted ORDER BY publisher_backend, partition_key, id "
            f"LIMIT %s) AS w"
        ), [list(keys), *values, first]

    def _waiting_of_each(
        self, keys: Collection[str], partitions: Collection[int], first: int
    ) -> tuple[str, list[Any]]:
        """Return the same where no query can ask for each of an array: a query for each key."""
        mine = f"{_PARTITION} IN ({', '.join(str(int(number)) for number in partitions) or 'NULL'})"
        hint, statuses = "", ["status IN ('retry', 'blocked')"]
        if self._connection.vendor == "mysql":  # whose index begins with the status
            hint = " FORCE INDEX (broadcaster_waiting)"
            statuses = ["status = 'retry'", "status = 'blocked'"]
        each = [
            f"SELECT id, partition_key AS name, status FROM {EVENTS}{hint} "
            f"WHERE publisher_backend = %s AND {status} AND {mine} AND partition_key = %s "
            "ORDER BY id LIMIT %s"
            for status in statuses
        ]
        sql = " UNION ALL ".join(f"SELECT * FROM ({one}) AS k" for _ in keys for one in each)
        params = [value for key in keys for _ in each for value in (self.backend, key, first)]
        return sql, params
