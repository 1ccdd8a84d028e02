"""The table `outbox_events` of 0.1.1: its existence, contents and rows in batches."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

from django.db import connections, transaction
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

TABLE: Final = "outbox_events"
FIRST_MIGRATION: Final = ("django_broadcaster", "0001_initial")
"""The only migration of 0.1.1."""

DELIVERED: Final = ("published", "failed")
"""The statuses of events in 0.1.1 that are not to be delivered."""

MOST_CHARACTERS: Final = 4_000_000
"""Maximum of the payloads' characters that are read at a time."""


class OldRow(NamedTuple):
    """A row of 0.1.1 with the driver's values. JSON columns are text.

    `is_later` is True if the event is not due yet.
    """

    id: Any
    spec_version: str
    event_type: str
    source: str
    subject: str
    data_content_type: str
    data_schema: str
    data: str | None
    status: str
    created_at: Any
    updated_at: Any
    scheduled_at: Any
    published_at: Any
    retry_count: int
    max_retries: int
    last_error: str
    publisher_backend: str
    publisher_config: str
    is_later: bool


COLUMNS: Final = OldRow._fields[:-1]
_JSON: Final = ("data", "publisher_config")


class Key(NamedTuple):
    """The position of a row in the delivery order of 0.1.1, and the size of its payload."""

    id: Any
    created_at: Any
    size: int


class ReferencedError(RuntimeError):
    """Foreign keys refer to the table of 0.1.1, so its rows can't move."""

    def __init__(self, tables: Sequence[str]) -> None:
        """Set the text with the names of the tables."""
        super().__init__(
            f"can't move events: a foreign key of {', '.join(tables)} refers to {TABLE}. Install "
            "0.1.1 again, replace the ForeignKey by a UUIDField in a migration, and apply it"
        )


class OldTable:
    """The table of 0.1.1 in one database."""

    def __init__(self, using: str) -> None:
        self.using = using
        self.connection = connections[using]
        self._vendor = self.connection.vendor
        features = self.connection.features
        self._lock = ""
        if features.has_select_for_update:
            skip = features.has_select_for_update_skip_locked
            self._lock = " FOR UPDATE SKIP LOCKED" if skip else " FOR UPDATE"
        self._hint = ""
        self._last: Any = None

    def exists(self) -> bool:
        """Return True if the table exists and has the columns of 0.1.1.

        Because the name is common, it may be another app's table, which is not touched.
        """
        introspection = self.connection.introspection
        with self.connection.cursor() as cursor:
            if TABLE not in introspection.table_names(cursor):
                return False
            described = introspection.get_table_description(cursor, TABLE)
        return {column.name for column in described} >= set(COLUMNS)

    def counts(self) -> dict[str, int]:
        """Return the number of rows by status."""
        sql = f"SELECT status, COUNT(*) FROM {TABLE} GROUP BY status ORDER BY status"
        return dict(self._select(sql))

    def is_empty(self) -> bool:
        """Return True if the table has no row."""
        return not self._select(f"SELECT 1 FROM {TABLE} LIMIT 1")

    def prepare(self) -> None:
        """Limit the move to the current rows, by their `created_at`.

        Otherwise the move might never end while applications publish. Batches must use the index on
        that column.
        """
        [(self._last,)] = self._select(f"SELECT MAX(created_at) FROM {TABLE}")
        if self._vendor == "postgresql":
            self._execute(f"ANALYZE {TABLE}")  # PostgreSQL has no hints; this blocks no writer
            return
        with self.connection.cursor() as cursor:
            found = self.connection.introspection.get_constraints(cursor, TABLE)
        names = [name for name, each in found.items() if each["columns"] == ["created_at"]]
        if names:
            words = "FORCE INDEX ({})" if self._vendor == "mysql" else "INDEXED BY {}"
            self._hint = f" {words.format(self.connection.ops.quote_name(names[0]))}"

    def check_references(self) -> None:
        """Raise ReferencedError if another table refers to this one by a foreign key.

        The database would refuse to delete the rows, or also delete the referring rows.
        """
        introspection = self.connection.introspection
        with self.connection.cursor() as cursor:
            referring = [
                name
                for name in introspection.table_names(cursor)
                for relation in introspection.get_relations(cursor, name).values()
                if relation[1] == TABLE
            ]
        if referring:
            raise ReferencedError(sorted({*referring}))

    def begin_writing(self) -> None:
        """Begin the transaction with a write on SQLite.

        SQLite refuses a write after a read if another connection has written in between.
        """
        if self._vendor == "sqlite":
            self._execute(f"DELETE FROM {TABLE} WHERE id IS NULL")

    def lock_keys(self, *, delivered: bool, after: Key | None, limit: int) -> list[Key]:
        """Lock rows in their order and return their keys, as many as fit into memory.

        Rows that another transaction has locked are skipped.

        Args:
            delivered: True for delivered rows, False for undelivered ones.
            after: The key after which to begin; None for the first row.
            limit: Maximum of rows.
        """
        size = "pg_column_size(data)" if self._vendor == "postgresql" else "LENGTH(data)"
        group = "IN" if delivered else "NOT IN"
        conditions = f"status {group} (%s, %s) AND created_at <= %s"
        values: list[Any] = [*DELIVERED, self._last]
        if after is not None:
            conditions += " AND created_at >= %s AND (created_at > %s OR id > %s)"
            values += [after.created_at, after.created_at, after.id]
        sql = (
            f"SELECT id, created_at, COALESCE({size}, 0) FROM {TABLE}{self._hint} "
            f"WHERE {conditions} ORDER BY created_at, id LIMIT %s{self._lock}"
        )
        return _fitting([Key._make(row) for row in self._select(sql, *values, limit)])

    def read(self, keys: Sequence[Key]) -> list[OldRow]:
        """Return the rows with these keys, in their order."""
        names = ", ".join(self._as_text(name) for name in COLUMNS)
        sql = (
            f"SELECT {names}, CASE WHEN scheduled_at > %s THEN 1 ELSE 0 END FROM {TABLE} "
            f"WHERE {self._among(keys)} ORDER BY created_at, id"
        )
        now = self.connection.ops.adapt_datetimefield_value(timezone.now())
        ids = self._ids([key.id for key in keys])
        return [OldRow._make(row) for row in self._select(sql, now, *ids)]

    def delete(self, ids: Collection[Any]) -> None:
        """Delete the rows with these ids."""
        if ids:
            self._execute(f"DELETE FROM {TABLE} WHERE {self._among(ids)}", *self._ids(ids))

    def known(self, ids: Collection[str]) -> set[str]:
        """Return the ids that exist in the table; an id has 32 hexadecimal digits."""
        if not ids:
            return set()
        rows = self._select(f"SELECT id FROM {TABLE} WHERE id IN ({_marks(ids)})", *ids)
        return {str(row[0]).replace("-", "") for row in rows}

    def insert(self, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows with the values of `COLUMNS`; an id has 32 hexadecimal digits."""
        if rows:
            values = ", ".join([f"({_marks(COLUMNS)})"] * len(rows))
            flat = [value for row in rows for value in row]
            self._execute(f"INSERT INTO {TABLE} ({', '.join(COLUMNS)}) VALUES {values}", *flat)

    def drop_if_empty(self) -> bool:
        """Drop the table and the record of the migration of 0.1.1; return False if it has rows."""
        with transaction.atomic(using=self.using):
            if self._vendor == "postgresql":
                self._execute("SET LOCAL lock_timeout = '5s'")
                self._execute(f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE")
            self.begin_writing()
            if not self.is_empty():
                return False
            self._execute(f"DROP TABLE {TABLE}")
            MigrationRecorder(self.connection).record_unapplied(*FIRST_MIGRATION)
        return True

    def _among(self, ids: Collection[Any]) -> str:
        """Return the condition that a row has one of these ids."""
        if self._vendor == "postgresql":
            return "id = ANY(%s)"  # the driver is slow with a list of placeholders
        return f"id IN ({_marks(ids)})"

    def _ids(self, ids: Collection[Any]) -> list[Any]:
        return [list(ids)] if self._vendor == "postgresql" else list(ids)

    def _as_text(self, name: str) -> str:
        return f"{name}::text" if name in _JSON and self._vendor == "postgresql" else name

    def _select(self, sql: str, *params: Any) -> list[Any]:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, params)
            return list(cursor.fetchall())

    def _execute(self, sql: str, *params: Any) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, params or None)


def _fitting(keys: Sequence[Key]) -> list[Key]:
    """Return the first keys, at least one, whose payloads fit into memory together."""
    fitting: list[Key] = []
    size = 0
    for key in keys:
        size += key.size
        if fitting and size > MOST_CHARACTERS:
            break
        fitting.append(key)
    return fitting


def _marks(values: Collection[Any]) -> str:
    return ", ".join(["%s"] * len(values))
