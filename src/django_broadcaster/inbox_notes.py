"""A note in the inbox: one handler has processed one event."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from django.db import OperationalError, connections
from django.db.models.constants import OnConflict
from django.utils import timezone

from django_broadcaster.store import storable

from .events import CloudEvent
from .models import InboxEvent
from .registry import Handler

_RESTARTS = frozenset({
    "40001",  # PostgreSQL: serialization failure
    "40P01",  # PostgreSQL: deadlock
    1020,  # MariaDB: the record has changed since the snapshot
    1213,  # MariaDB and MySQL: deadlock
})  # fmt: skip


def note_identity(handler: str, source: str, event_id: str) -> str:
    """Return the value of `InboxEvent.identity` for a handler's name and an event."""
    return sha256("\0".join((handler, source, event_id)).encode()).hexdigest()


class NoteConflict(OperationalError):
    """Another transaction wrote the same note; only a new transaction sees it."""


class Note:
    """A row of `InboxEvent` in the database `using`; `write` inserts it."""

    def __init__(self, event: CloudEvent, handler: Handler, using: str) -> None:
        self.using = using
        self._connection = connections[using]
        ops = self._connection.ops
        self._row = {
            "identity": note_identity(handler.name, event.source, event.id),
            # For display only. Events from other systems may have longer values than the columns.
            "handler": storable(handler.name, self._connection)[:255],
            "source": storable(event.source, self._connection)[:512],
            "event_id": storable(event.id, self._connection)[:255],
            "processed_at": ops.adapt_datetimefield_value(timezone.now()),
        }
        self._table = ops.quote_name(InboxEvent._meta.db_table)

    def write(self) -> bool:
        """Insert the row; return False if it exists.

        Raises:
            NoteConflict: Another transaction wrote the same note.
        """
        ops = self._connection.ops
        names = ", ".join(ops.quote_name(name) for name in self._row)
        insert = ops.insert_statement(on_conflict=OnConflict.IGNORE)
        suffix = ops.on_conflict_suffix_sql([], OnConflict.IGNORE, [], [])
        marks = ", ".join(["%s"] * len(self._row))
        sql = f"{insert} {self._table} ({names}) VALUES ({marks}) {suffix}"
        try:
            return self._execute(sql, list(self._row.values())) == 1
        except OperationalError as error:
            if _code(error) in _RESTARTS:
                raise NoteConflict(*error.args) from error
            raise

    def exists(self) -> bool:
        """Return True if the connection's transaction sees the row."""
        sql = f"SELECT 1 FROM {self._table} WHERE identity = %s"
        with self._connection.cursor() as cursor:
            cursor.execute(sql, [self._row["identity"]])
            return cursor.fetchone() is not None

    def delete(self) -> None:
        """Delete the row if it is the one that `write` inserted."""
        sql = f"DELETE FROM {self._table} WHERE identity = %s AND processed_at = %s"
        self._execute(sql, [self._row["identity"], self._row["processed_at"]])

    def _execute(self, sql: str, params: list[Any]) -> int:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, params)
            return int(cursor.rowcount)


def _code(error: OperationalError) -> object:
    """Return the error code of the database: text on PostgreSQL, a number on MariaDB."""
    cause = error.__cause__
    code = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    return code or (error.args[0] if error.args else None)
