"""Shared parts of a relay's statements: the fence, locks, the driver and the vendors' SQL."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import Any, TypeVar

from django.conf import settings
from django.db import OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from .charsets import storable
from .clock import DatabaseClock
from .sql import EVENTS, RELAYS

T = TypeVar("T")
Change = Callable[[Collection[int]], int]
"""A function that changes rows with some ids by one statement, and returns how many."""

IN_ORDER = (
    " CROSS JOIN (SELECT FROM generate_series(1, (SELECT 1)) AS a, "
    "generate_series(1, (SELECT 1)) AS b OFFSET 0) AS once"
)
"""A join that makes PostgreSQL read the first rows of an index in its order.

PostgreSQL has no hints. If its statistics say that few rows match, it reads and sorts all of them.
The joined table has one row, but its estimate is a million rows, so PostgreSQL avoids a sort.
"""

TIMELINE = "substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
"""PostgreSQL's timeline. It changes at a failover to a replica, which may lack the last commits."""

LOCK_SECONDS = 1
"""Seconds for which a statement waits for rows that another transaction has locked."""

CAREFUL_SECONDS = 10.0
"""Seconds after locked rows were found in which statements skip such rows without a wait."""


class RelaySQL:
    """Statements on one connection, on behalf of the lease `lease_id`.

    Statements that move rows carry the fence: once the lease has ended, they change nothing. A row
    that another transaction has locked is skipped after LOCK_SECONDS, so it delays no other row.
    """

    def __init__(
        self,
        using: str,
        lease_id: int,
        clock: DatabaseClock | None = None,
        timeline: str | None = None,
    ) -> None:
        self.lease_id = lease_id
        self.clock = clock or DatabaseClock(using)
        self._connection = connections[using]
        self._postgres = self._connection.vendor == "postgresql"
        self._reads_as_is = _is_psycopg3(self._connection) and settings.USE_TZ
        # The fence is evaluated before any row is read, so the timeout holds for every row.
        timeout = f" AND set_config('lock_timeout', '{LOCK_SECONDS}s', true) IS NOT NULL"
        # After a failover to a replica without the last commits, other events may have these ids.
        same = f" AND {TIMELINE} = '{timeline}'" if timeline else ""
        self._lease = f"SELECT 1 FROM {RELAYS} WHERE id = %s{same}"
        self._fence = (
            f" AND EXISTS ({self._lease}{timeout if self._postgres else ''}{self._lock()})"
        )
        is_mariadb = bool(getattr(self._connection, "mysql_is_mariadb", False))
        self._limited = (
            f"SET STATEMENT innodb_lock_wait_timeout={LOCK_SECONDS} FOR " if is_mariadb else ""
        )
        # MariaDB would read all rows of a small table, and wait for each locked one.
        mysql = self._connection.vendor == "mysql"
        self._by_id = f"{EVENTS} FORCE INDEX (PRIMARY)" if mysql else EVENTS
        self._deleted = f"{EVENTS} " if mysql else ""  # a DELETE with a hint names its table
        skips = self._connection.features.has_select_for_update_skip_locked
        rows = f" OF {EVENTS}" if self._postgres else ""
        self._skip_locked = f" FOR UPDATE{rows} SKIP LOCKED" if skips else ""
        self._careful_until = 0.0

    @property
    def is_careful(self) -> bool:
        """Whether rows that another transaction has locked were found recently."""
        return time.monotonic() < self._careful_until

    def _lock(self) -> str:
        """Return the lock clause that keeps the lease from ending while a statement runs.

        On PostgreSQL, heartbeats don't wait for the lock. SQLite has one writer and needs no lock.
        """
        locks = {"postgresql": " FOR KEY SHARE", "mysql": " LOCK IN SHARE MODE"}
        return locks.get(self._connection.vendor, "")

    # Moving rows

    def _move(self, ids: Collection[int], source: str, target: str, **columns: Any) -> int:
        """Change the status of rows from `source` to `target`; return how many."""
        return self._skipping_locked(ids, self._moving(source, target, **columns))

    def _moving(self, source: str, target: str, **columns: Any) -> Change:
        """Return a function that changes rows from one status to another."""
        columns.setdefault("updated_at", self._now())
        sets = "".join(f", {name} = %s" for name in columns)

        def move(ids: Collection[int]) -> int:
            sql = (
                f"UPDATE {self._by_id} SET status = '{target}'{sets} "
                f"WHERE {self._in('id', ids)} AND {self._has_status(source)}{self._fence}"
            )
            return self._change(sql, [*columns.values(), *self._values(ids), self.lease_id])

        return move

    def _move_each(
        self, changes: str, arrays: str, names: str, columns: Sequence[Sequence[Any]]
    ) -> int:
        """Change pending rows on PostgreSQL, each with its own values; return how many.

        Args:
            changes: The SET clause, in which `v` is the row of values.
            arrays: The placeholders of the columns, with their types.
            names: The names of the columns.
            columns: The columns of values; the first one has the ids.
        """
        sql = (
            f"UPDATE {EVENTS} e SET updated_at = %s, {changes} FROM unnest({arrays}) AS v({names}) "
            f"WHERE e.id = v.id AND {self._has_status('pending')}{self._fence}"
        )
        now = self._now()

        def move(ids: Collection[int]) -> int:
            chosen = _of_ids(columns, ids)
            return self._change(sql, [now, *map(list, chosen), self.lease_id])

        return self._skipping_locked(columns[0], move)

    def _move_each_by_case(self, changes: str, columns: Sequence[Sequence[Any]]) -> int:
        """Change pending rows on the other databases, each with its own values; return how many.

        The SET clause has a `{case}` for each column but the ids. A statement has a thousand rows:
        SQLite allows 32,766 parameters.
        """
        now = self._now()

        def move(ids: Collection[int]) -> int:
            _, *others = _of_ids(columns, ids)
            cases = [
                value
                for column in others
                for pair in zip(ids, column, strict=True)
                for value in pair
            ]
            case = f"CASE id{' WHEN %s THEN %s' * len(ids)} END"
            sql = (
                f"UPDATE {self._by_id} SET updated_at = %s, {changes.format(case=case)} "
                f"WHERE {self._in('id', ids)} AND {self._has_status('pending')}{self._fence}"
            )
            return self._change(sql, [now, *cases, *self._values(ids), self.lease_id])

        rows = list(zip(*columns, strict=True))
        return sum(
            self._skipping_locked([row[0] for row in some], move) for some in thousands(rows)
        )

    # Rows that another transaction has locked

    def _skipping_locked(self, ids: Collection[int], change: Change) -> int:
        """Change rows by one statement; if some are locked, change the others.

        Skipping locked rows takes a transaction and a second statement. So rows are skipped only
        after a statement's wait has timed out, and for CAREFUL_SECONDS after that.
        """
        if not self.is_careful:
            try:
                return change(ids)
            except OperationalError as error:
                if not (self._skip_locked and _is_lock_timeout(error)):
                    raise
        with self._locking():
            sql = f"SELECT id FROM {self._by_id} WHERE {self._in('id', ids)} ORDER BY id"
            free = self._select(f"{sql}{self._skip_locked}", self._values(ids))
            if len(free) < len(ids):
                self._careful_until = time.monotonic() + CAREFUL_SECONDS
            return change([row_id for (row_id,) in free]) if free else 0

    @contextmanager
    def _choosing(self) -> Iterator[str]:
        """Yield the clause that skips locked rows if such rows were found recently, else "".

        The rows that a query with the clause returns stay locked until the end of the block.
        """
        if not self.is_careful:
            yield ""
            return
        with self._locking():
            yield self._skip_locked

    @contextmanager
    def _locking(self) -> Iterator[None]:
        """Open a transaction that locks the lease first.

        A statement that ends a lease locks it before rows as well, so neither waits for the other.
        """
        with transaction.atomic(using=self._connection.alias):
            self._select(f"{self._lease}{self._lock()}", [self.lease_id])
            yield

    # Statements

    def _select(self, sql: str, params: Sequence[Any], *, is_repeated: bool = False) -> list[Any]:
        """Return all rows; `is_repeated` is as for `relay_cursor`."""
        with relay_cursor(self._connection, is_repeated=is_repeated) as cursor:
            cursor.execute(sql, params)
            return list(cursor.fetchall())

    def _change(self, sql: str, params: Sequence[Any]) -> int:
        """Run a fenced statement, which waits at most LOCK_SECONDS for locked rows."""
        return self._execute(f"{self._limited}{sql}", params)

    def _execute(self, sql: str, params: Sequence[Any]) -> int:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, params)
            return int(cursor.rowcount)

    # The vendors' SQL

    def _in(self, column: str, values: Collection[Any]) -> str:
        """Return the condition that a column has one of the values.

        PostgreSQL plans an array in half the time of a list.
        """
        if self._postgres:
            return f"{column} = ANY(%s)"
        return f"{column} IN ({', '.join(['%s'] * len(values))})" if values else "1 = 0"

    def _has_status(self, status: str) -> str:
        """Return the condition that rows selected by id have a status.

        On PostgreSQL, the condition must not match that of the partial index. With statistics of an
        empty outbox, PostgreSQL would read the whole index for each batch instead of looking up
        the ids. The time of a batch would then grow with the backlog.
        """
        return f"status || '' = '{status}'" if self._postgres else f"status = '{status}'"

    def _values(self, values: Collection[Any] | None) -> list[Any]:
        """Return the parameters of `_in`; none for None."""
        if values is None:
            return []
        return [list(values)] if self._postgres else list(values)

    def _aware(self, moment: datetime) -> datetime:
        """Return the driver's moment, with the time zone in which Django wrote it."""
        if timezone.is_aware(moment):
            return moment
        zone = self._connection.timezone or timezone.get_default_timezone()
        return timezone.make_aware(moment, zone)

    def _text(self, error: str) -> str:
        return storable(error, self._connection)

    def _now(self) -> Any:
        return self._adapt(self.clock.now())

    def _adapt(self, moment: datetime) -> Any:
        return self._connection.ops.adapt_datetimefield_value(moment)


def _of_ids(columns: Sequence[Sequence[Any]], ids: Collection[int]) -> list[Sequence[Any]]:
    """Return columns of values for some ids only; the first column has the ids."""
    if len(ids) == len(columns[0]):
        return list(columns)
    wanted = set(ids)
    rows = [row for row in zip(*columns, strict=True) if row[0] in wanted]
    return list(zip(*rows, strict=True))


def _is_lock_timeout(error: OperationalError) -> bool:
    """Return True if a statement failed because it waited too long for a lock on a row."""
    cause = error.__cause__
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    return state == "55P03" or error.args[:1] == (1205,)


MOST_CHARACTERS = 300_000
"""Maximum of the texts' characters in a statement for many rows; see `packets`."""


def thousands(rows: Sequence[Sequence[Any]]) -> Iterator[Sequence[Sequence[Any]]]:
    """Yield portions of at most a thousand rows, which every database accepts in a statement."""
    begin = characters = 0
    for end, row in enumerate(rows):
        more = sum(len(value) for value in row if isinstance(value, str))
        if end - begin >= 1000 or (end > begin and characters + more > MOST_CHARACTERS):
            yield rows[begin:end]
            begin, characters = end, 0
        characters += more
    if begin < len(rows):
        yield rows[begin:]


def batched(values: Collection[T], size: int) -> Iterator[Sequence[T]]:
    """Yield values in sequences of at most `size`."""
    values = list(values)
    for start in range(0, len(values), size):
        yield values[start : start + size]


def relay_cursor(connection: BaseDatabaseWrapper, *, is_repeated: bool = False) -> Any:
    """Return a cursor for a relay's statement: psycopg's own, or Django's for other drivers.

    `is_repeated` is True for a statement that each delivery runs, whatever the values.
    """
    if not _is_psycopg3(connection):
        return connection.cursor()
    from .psycopg3 import RelayCursor

    connection.ensure_connection()
    cursor = RelayCursor(connection.connection, is_repeated=is_repeated)
    # Django's wrapper maps errors, logs queries and runs execute_wrappers.
    return connection._prepare_cursor(cursor)  # type: ignore[attr-defined]


def keep_plans(connection: BaseDatabaseWrapper) -> None:
    """Let the server keep the plans of repeated statements; its sessions must not be shared."""
    if connection.connection is not None and _is_psycopg3(connection):
        from . import psycopg3

        psycopg3.keep_plans(connection.connection)


def keeps_plans(connection: BaseDatabaseWrapper) -> bool:
    """Return True if psycopg may let the server keep plans in this session.

    Django forbids it, because sessions may be shared by a pooler. A project allows it with
    `prepare_threshold` in the database's OPTIONS, and a relay with `keep_plans`.
    """
    return (
        _is_psycopg3(connection)
        and getattr(connection.connection, "prepare_threshold", None) is not None
    )


def _is_psycopg3(connection: BaseDatabaseWrapper) -> bool:
    """Return True if Django uses psycopg 3; psycopg2 also works, but is slower."""
    return connection.vendor == "postgresql" and _django_uses_psycopg3()


@cache
def _django_uses_psycopg3() -> bool:
    from django.db.backends.postgresql.psycopg_any import is_psycopg3

    return bool(is_psycopg3)
