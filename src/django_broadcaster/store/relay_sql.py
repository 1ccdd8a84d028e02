"""What the statements of a relay have in common: the fence, the driver, and what vendors write."""

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
"""Changes rows named by their ids in one statement; returns how many."""

IN_ORDER = (
    " CROSS JOIN (SELECT FROM generate_series(1, (SELECT 1)) AS a, "
    "generate_series(1, (SELECT 1)) AS b OFFSET 0) AS once"
)
"""Makes PostgreSQL read the first rows of an index in its order, whatever its statistics say.

It takes no hints. Where it believes that few rows match, it would read all of them and sort. This
join is with one row, of which it believes that there are a million: so it never wants all.
"""

TIMELINE = "substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
"""Of PostgreSQL: another one since a replica has taken over, which may have been behind."""

LOCK_SECONDS = 1
"""Seconds for which a statement waits for rows that another transaction has locked."""

CAREFUL_SECONDS = 10.0
"""Seconds after locked rows were met in which statements skip them at once, without a wait."""


class RelaySQL:
    """Statements on one connection, on behalf of the lease `relay_id`.

    Those that move rows carry the fence: they change nothing once the lease has gone. A row that
    another transaction has locked is skipped after LOCK_SECONDS, so it holds up no other row.
    """

    def __init__(
        self,
        using: str,
        relay_id: int,
        clock: DatabaseClock | None = None,
        timeline: str | None = None,
    ) -> None:
        self.relay_id = relay_id
        self.clock = clock or DatabaseClock(using)
        self._connection = connections[using]
        self._postgres = self._connection.vendor == "postgresql"
        self._reads_as_is = _is_psycopg3(self._connection) and settings.USE_TZ
        # The fence is evaluated before any row is read, so the timeout holds for every row.
        timeout = f" AND set_config('lock_timeout', '{LOCK_SECONDS}s', true) IS NOT NULL"
        # Where a replica has taken over that was behind, other events may have the same ids.
        same = f" AND {TIMELINE} = '{timeline}'" if timeline else ""
        self._lease = f"SELECT 1 FROM {RELAYS} WHERE id = %s{same}"
        self._fence = (
            f" AND EXISTS ({self._lease}{timeout if self._postgres else ''}{self._lock()})"
        )
        is_mariadb = bool(getattr(self._connection, "mysql_is_mariadb", False))
        self._limited = (
            f"SET STATEMENT innodb_lock_wait_timeout={LOCK_SECONDS} FOR " if is_mariadb else ""
        )
        # Of a small table MariaDB would rather read all rows, and wait for each that is locked.
        mysql = self._connection.vendor == "mysql"
        self._by_id = f"{EVENTS} FORCE INDEX (PRIMARY)" if mysql else EVENTS
        self._deleted = f"{EVENTS} " if mysql else ""  # a DELETE with a hint names its table
        skips = self._connection.features.has_select_for_update_skip_locked
        rows = f" OF {EVENTS}" if self._postgres else ""
        self._skip_locked = f" FOR UPDATE{rows} SKIP LOCKED" if skips else ""
        self._careful_until = 0.0

    @property
    def is_careful(self) -> bool:
        """Whether rows were met lately that another transaction has locked."""
        return time.monotonic() < self._careful_until

    def _lock(self) -> str:
        """Return the lock that keeps a lease from being taken away while a statement runs.

        It lets heartbeats pass where it can. SQLite has one writer at a time and needs none.
        """
        locks = {"postgresql": " FOR KEY SHARE", "mysql": " LOCK IN SHARE MODE"}
        return locks.get(self._connection.vendor, "")

    # Moving rows

    def _move(self, ids: Collection[int], source: str, target: str, **columns: Any) -> int:
        """Change the status of those of the rows that stand in `source`; return how many."""
        return self._skipping_locked(ids, self._moving(source, target, **columns))

    def _moving(self, source: str, target: str, **columns: Any) -> Change:
        """Return the change from one status to another, of rows named by their ids."""
        columns.setdefault("updated_at", self._now())
        sets = "".join(f", {name} = %s" for name in columns)

        def move(ids: Collection[int]) -> int:
            sql = (
                f"UPDATE {self._by_id} SET status = '{target}'{sets} "
                f"WHERE {self._in('id', ids)} AND {self._stands_in(source)}{self._fence}"
            )
            return self._change(sql, [*columns.values(), *self._values(ids), self.relay_id])

        return move

    def _move_each(
        self, changes: str, arrays: str, names: str, columns: Sequence[Sequence[Any]]
    ) -> int:
        """Change pending rows, each by values of its own, on PostgreSQL; return how many.

        The first of the columns of values are the ids. They are the row `v` in the changes.
        """
        sql = (
            f"UPDATE {EVENTS} e SET updated_at = %s, {changes} FROM unnest({arrays}) AS v({names}) "
            f"WHERE e.id = v.id AND {self._stands_in('pending')}{self._fence}"
        )
        now = self._now()

        def move(ids: Collection[int]) -> int:
            chosen = _of_ids(columns, ids)
            return self._change(sql, [now, *map(list, chosen), self.relay_id])

        return self._skipping_locked(columns[0], move)

    def _move_each_by_case(self, changes: str, columns: Sequence[Sequence[Any]]) -> int:
        """Do the same on the other databases, where the changes have a `{case}` for each column.

        It takes a thousand rows at a time: SQLite allows 32,766 parameters.
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
                f"WHERE {self._in('id', ids)} AND {self._stands_in('pending')}{self._fence}"
            )
            return self._change(sql, [now, *cases, *self._values(ids), self.relay_id])

        rows = list(zip(*columns, strict=True))
        return sum(
            self._skipping_locked([row[0] for row in some], move) for some in thousands(rows)
        )

    # Rows that another transaction has locked

    def _skipping_locked(self, ids: Collection[int], change: Change) -> int:
        """Change rows by one statement; where some are locked, change the others.

        To skip locked rows takes a transaction and a second statement, so it is done only where
        the statement has just waited in vain, and for a while after that.
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
        """Give what lets a query skip locked rows, where such rows were met lately; else "".

        The rows that it finds stay locked until the end of the block.
        """
        if not self.is_careful:
            yield ""
            return
        with self._locking():
            yield self._skip_locked

    @contextmanager
    def _locking(self) -> Iterator[None]:
        """Open a transaction that holds the lease: who takes that away locks it before rows."""
        with transaction.atomic(using=self._connection.alias):
            self._select(f"{self._lease}{self._lock()}", [self.relay_id])
            yield

    # The ways to the database

    def _select(self, sql: str, params: Sequence[Any], *, is_repeated: bool = False) -> list[Any]:
        """Return all rows; `is_repeated` is as for `relay_cursor`."""
        with relay_cursor(self._connection, is_repeated=is_repeated) as cursor:
            cursor.execute(sql, params)
            return list(cursor.fetchall())

    def _change(self, sql: str, params: Sequence[Any]) -> int:
        """Run a fenced statement that waits for locked rows for LOCK_SECONDS."""
        return self._execute(f"{self._limited}{sql}", params)

    def _execute(self, sql: str, params: Sequence[Any]) -> int:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, params)
            return int(cursor.rowcount)

    # What vendors write

    def _in(self, column: str, values: Collection[Any]) -> str:
        """Return the condition that a column has one of the values.

        PostgreSQL takes them as one array, which it plans in half the time of a list of them.
        """
        if self._postgres:
            return f"{column} = ANY(%s)"
        return f"{column} IN ({', '.join(['%s'] * len(values))})" if values else "1 = 0"

    def _stands_in(self, status: str) -> str:
        """Return the condition that rows named by their ids stand in a status.

        PostgreSQL may not know it for the one of the partial index. Statistics of an outbox that
        was empty say that next to nothing is pending, so it would rather read all of that index
        for each batch than look the ids up, and each batch of a backlog would take as long as the
        backlog is.
        """
        return f"status || '' = '{status}'" if self._postgres else f"status = '{status}'"

    def _values(self, values: Collection[Any] | None) -> list[Any]:
        """Return the parameters that belong to `_in`; none for None."""
        if values is None:
            return []
        return [list(values)] if self._postgres else list(values)

    def _aware(self, moment: datetime) -> datetime:
        """Return a moment as the driver gave it, with the time zone in which Django wrote it."""
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
    """Return columns of values, the first of which are ids, for these of the ids only."""
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
"""Of the texts in a statement for many rows; its length is limited on MariaDB and MySQL."""


def thousands(rows: Sequence[Sequence[Any]]) -> Iterator[Sequence[Sequence[Any]]]:
    """Yield rows by the thousand or fewer, within what every database takes in a statement."""
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
    """Return a cursor for a statement of a relay: psycopg's own, or Django's for other drivers.

    `is_repeated` says that each delivery runs the statement, whatever the values.
    """
    if not _is_psycopg3(connection):
        return connection.cursor()
    from .psycopg3 import RelayCursor

    connection.ensure_connection()
    cursor = RelayCursor(connection.connection, is_repeated=is_repeated)
    # Django's wrapper around it maps errors, logs queries and runs execute_wrappers.
    return connection._prepare_cursor(cursor)  # type: ignore[attr-defined]


def keep_plans(connection: BaseDatabaseWrapper) -> None:
    """Let the server keep the plans of repeated statements; its sessions must not be shared."""
    if connection.connection is not None and _is_psycopg3(connection):
        from . import psycopg3

        psycopg3.keep_plans(connection.connection)


def _is_psycopg3(connection: BaseDatabaseWrapper) -> bool:
    """Return True if Django uses psycopg 3; psycopg2 works as well, if not as fast."""
    return connection.vendor == "postgresql" and _django_uses_psycopg3()


@cache
def _django_uses_psycopg3() -> bool:
    from django.db.backends.postgresql.psycopg_any import is_psycopg3

    return bool(is_psycopg3)
