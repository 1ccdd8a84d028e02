"""What the statements of a relay have in common: the fence, the driver, and what vendors write."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import connections
from django.utils import timezone

from .charsets import storable
from .tables import EVENTS, RELAYS


class RelaySQL:
    """Statements on one connection, on behalf of the lease `relay_id`.

    Those that move rows carry the fence: they change nothing once the lease has gone.
    """

    def __init__(self, using: str, relay_id: int) -> None:
        self.relay_id = relay_id
        self._connection = connections[using]
        self._postgres = self._connection.vendor == "postgresql"
        self._psycopg3 = self._postgres and _is_psycopg3()
        self._reads_as_is = self._psycopg3 and settings.USE_TZ
        self._fence = f" AND EXISTS (SELECT 1 FROM {RELAYS} WHERE id = %s{self._lock()})"

    def _lock(self) -> str:
        """Return the lock that keeps a lease from being taken away while a statement runs.

        It lets heartbeats pass where it can. SQLite has one writer at a time and needs none.
        """
        locks = {"postgresql": " FOR KEY SHARE", "mysql": " LOCK IN SHARE MODE"}
        return locks.get(self._connection.vendor, "")

    # Moving rows

    def _move(self, ids: Collection[int], source: str, target: str, **columns: Any) -> int:
        """Change the status of those of the rows that stand in `source`; return how many."""
        columns.setdefault("updated_at", self._now())
        sets = "".join(f", {name} = %s" for name in columns)
        sql = (
            f"UPDATE {EVENTS} SET status = '{target}'{sets} "
            f"WHERE {self._in('id', ids)} AND {self._stands_in(source)}{self._fence}"
        )
        return self._execute(sql, [*columns.values(), *self._values(ids), self.relay_id])

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
        return self._execute(sql, [self._now(), *map(list, columns), self.relay_id])

    def _move_each_by_case(self, changes: str, columns: Sequence[Sequence[Any]]) -> int:
        """Do the same on the other databases, where the changes have a `{case}` for each column.

        It takes a thousand rows at a time: SQLite allows 32,766 parameters.
        """
        changed, now = 0, self._now()
        for rows in thousands(list(zip(*columns, strict=True))):
            ids, *others = zip(*rows, strict=True)
            cases = [
                value
                for column in others
                for pair in zip(ids, column, strict=True)
                for value in pair
            ]
            case = f"CASE id{' WHEN %s THEN %s' * len(ids)} END"
            sql = (
                f"UPDATE {EVENTS} SET updated_at = %s, {changes.format(case=case)} "
                f"WHERE {self._in('id', ids)} AND {self._stands_in('pending')}{self._fence}"
            )
            changed += self._execute(sql, [now, *cases, *self._values(ids), self.relay_id])
        return changed

    # The two ways to the database

    def _select(self, sql: str, params: Sequence[Any]) -> list[Any]:
        with self._read_cursor() as cursor:
            cursor.execute(sql, params)
            return list(cursor.fetchall())

    def _execute(self, sql: str, params: Sequence[Any]) -> int:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, params)
            return int(cursor.rowcount)

    def _read_cursor(self) -> Any:
        """Return a cursor for reading; psycopg's own with binary results reads twice as fast."""
        if not self._psycopg3:
            return self._connection.cursor()
        from psycopg import Cursor, pq

        self._connection.ensure_connection()
        cursor = Cursor(self._connection.connection)
        cursor.format = pq.Format.BINARY
        # Django's wrapper around it maps errors, logs queries and runs execute_wrappers.
        return self._connection._prepare_cursor(cursor)  # type: ignore[attr-defined]

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
        return self._adapt(timezone.now())

    def _adapt(self, moment: datetime) -> Any:
        return self._connection.ops.adapt_datetimefield_value(moment)


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


def _is_psycopg3() -> bool:
    """Tell which driver Django took; psycopg2 serves as well, if not as fast."""
    from django.db.backends.postgresql.psycopg_any import is_psycopg3

    return bool(is_psycopg3)
