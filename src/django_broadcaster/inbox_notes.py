"""Notes in the inbox: which handlers have processed, or rejected, an event."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from hashlib import sha256
from typing import Any, Final

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

Row = tuple[Any, ...]
"""The values of a row in the order of `COLUMNS`."""

COLUMNS: Final = ("identity", "handler", "source", "event_id", "processed_at")

_REJECTED: Final = "rejected"
"""Sets the identity of a rejection apart from that of a note that the event was processed."""


def note_identity(handler: str, source: str, event_id: str) -> str:
    """Return the value of `InboxEvent.identity` for a handler's name and an event."""
    return sha256("\0".join((handler, source, event_id)).encode()).hexdigest()


class NoteConflict(OperationalError):
    """Another transaction wrote the same note; only a new transaction sees it."""


class Note:
    """A row of `InboxEvent` in the database `using`; `write` inserts it."""

    def __init__(self, event: CloudEvent, handler: Handler, using: str) -> None:
        self.using = using
        self._table = _Table(using)
        self._identity = note_identity(handler.name, event.source, event.id)
        self._row = self._table.row(self._identity, handler.name, event)

    def write(self) -> bool:
        """Insert the row; return False if it exists.

        Raises:
            NoteConflict: Another transaction wrote the same note.
        """
        return self._table.insert([self._row]) == 1

    def exists(self) -> bool:
        """Return True if the connection's transaction sees the row."""
        return bool(self._table.known([self._identity]))

    def delete(self) -> None:
        """Delete the row if it is the one that `write` inserted."""
        self._table.delete([self._identity], self._table.now)


class Notes:
    """The notes of several calls, which one statement inserts."""

    def __init__(self, calls: Iterable[tuple[CloudEvent, Handler]], using: str) -> None:
        self._table = _Table(using)
        self.identities: list[str] = []
        """The identities of the notes, in the order of the calls."""
        self._rows: dict[str, Row] = {}
        for event, handler in calls:
            identity = note_identity(handler.name, event.source, event.id)
            self.identities.append(identity)
            self._rows[identity] = self._table.row(identity, handler.name, event)

    def write(self, known: Collection[str] = ()) -> bool:
        """Insert the rows but for those that are known; return False if another one exists.

        Raises:
            NoteConflict: Another transaction wrote one of the notes.
        """
        # Sorted: transactions with the same notes then wait for each other, without a deadlock.
        rows = [self._rows[each] for each in sorted(self._rows) if each not in known]
        return not rows or self._table.insert(rows) == len(rows)

    def known(self) -> set[str]:
        """Return the identities of the notes that exist."""
        return self._table.known(list(self._rows))

    def delete(self, identities: Collection[str]) -> None:
        """Delete notes that `write` inserted in the same transaction."""
        self._table.delete(list(identities))


class Rejections:
    """Which handlers of an event have rejected it, while others of its handlers are retried.

    They are kept beside the notes of processed events, so that a replay runs these handlers again.
    """

    def __init__(self, event: CloudEvent, handlers: Iterable[Handler], using: str) -> None:
        self._event = event
        self._table = _Table(using)
        self._identities = {
            note_identity(f"{_REJECTED}\0{each.name}", event.source, event.id): each.name
            for each in handlers
        }

    def names(self) -> set[str]:
        """Return the names of the handlers that have rejected the event."""
        return {self._identities[each] for each in self._table.known(list(self._identities))}

    def add(self, names: Collection[str]) -> None:
        """Note that handlers have rejected the event."""
        rows = [
            self._table.row(identity, f"{name} ({_REJECTED})", self._event)
            for identity, name in sorted(self._identities.items())
            if name in names
        ]
        if rows:
            self._table.insert(rows)

    def clear(self) -> None:
        """Forget that handlers have rejected the event."""
        self._table.delete(list(self._identities))


class _Table:
    """The statements on the inbox of one database."""

    def __init__(self, using: str) -> None:
        self._connection = connections[using]
        self._name = self._connection.ops.quote_name(InboxEvent._meta.db_table)
        self.now = self._connection.ops.adapt_datetimefield_value(timezone.now())

    def row(self, identity: str, handler: str, event: CloudEvent) -> Row:
        """Return the values of the columns."""
        # For display only. Events from other systems may have longer values than the columns.
        texts = (
            storable(handler, self._connection)[:255],
            storable(event.source, self._connection)[:512],
            storable(event.id, self._connection)[:255],
        )
        return (identity, *texts, self.now)

    def insert(self, rows: Sequence[Row]) -> int:
        """Insert the rows that do not exist; return how many. Raises NoteConflict."""
        ops = self._connection.ops
        names = ", ".join(map(ops.quote_name, COLUMNS))
        insert = ops.insert_statement(on_conflict=OnConflict.IGNORE)
        suffix = ops.on_conflict_suffix_sql([], OnConflict.IGNORE, [], [])
        params: list[Any]
        if self._connection.vendor == "postgresql" and len(rows) > 1:
            # A parameter for each column: the driver takes long for hundreds.
            values = f"SELECT *, %s::timestamptz FROM unnest({', '.join(['%s::varchar[]'] * 4)})"
            *texts, _ = zip(*rows, strict=True)
            params = [self.now, *map(list, texts)]
        else:
            values = "VALUES " + ", ".join([f"({_marks(COLUMNS)})"] * len(rows))
            params = [value for row in rows for value in row]
        sql = f"{insert} {self._name} ({names}) {values} {suffix}"
        try:
            return self._execute(sql, params)
        except OperationalError as error:
            if _code(error) in _RESTARTS:
                raise NoteConflict(*error.args) from error
            raise

    def known(self, identities: Sequence[str]) -> set[str]:
        """Return those of the identities that have a row."""
        sql = f"SELECT identity FROM {self._name} WHERE identity IN ({_marks(identities)})"
        with self._connection.cursor() as cursor:
            cursor.execute(sql, identities)
            return {row[0] for row in cursor.fetchall()}

    def delete(self, identities: Sequence[str], processed_at: Any = None) -> None:
        """Delete rows by their identities, and by the time at which they were written."""
        sql = f"DELETE FROM {self._name} WHERE identity IN ({_marks(identities)})"
        if processed_at is None:
            self._execute(sql, identities)
        else:
            self._execute(f"{sql} AND processed_at = %s", [*identities, processed_at])

    def _execute(self, sql: str, params: Sequence[Any]) -> int:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, params)
            return int(cursor.rowcount)


def _marks(values: Sequence[object]) -> str:
    return ", ".join(["%s"] * len(values))


def _code(error: OperationalError) -> object:
    """Return the error code of the database: text on PostgreSQL, a number on MariaDB."""
    cause = error.__cause__
    code = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    return code or (error.args[0] if error.args else None)
