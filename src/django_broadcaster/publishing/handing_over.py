"""Events that their backend takes in the publisher's own transaction, without a relay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from django_broadcaster.backends.base import Message
from django_broadcaster.backends.in_database import InDatabaseBackend
from django_broadcaster.exceptions import (
    BackendUnavailable,
    InvalidEvent,
    RefusedByDatabase,
    Rejected,
)
from django_broadcaster.states import OutboxEventStatus
from django_broadcaster.store import NewRow, insert_new, insert_rows, keys_that_wait


class HandedRow(NewRow):
    """A row that is delivered once it is written and its `backend` has taken it."""

    backend: InDatabaseBackend
    prepared: str

    @classmethod
    def of(cls, values: Iterable[Any], backend: InDatabaseBackend, message: Message) -> HandedRow:
        """Return the row of these values; raises InvalidEvent if its backend rejects the event."""
        row = cls._make(values)
        row.backend = backend
        try:
            row.prepared = backend.prepare(message)
        except Rejected as error:
            raise InvalidEvent(
                "backend", f"{backend.alias!r} rejects the event: {error}"
            ) from error
        return row


def in_order(connection: BaseDatabaseWrapper, rows: Sequence[NewRow]) -> Sequence[NewRow]:
    """Return rows as they may be written without overtaking events of their keys that wait.

    Such events are there after a move from another backend, and if a relay could not send them. A
    row of their keys waits for the relay, too.
    """
    keys: dict[str, set[str]] = {}
    for row in rows:
        if isinstance(row, HandedRow) and row.partition_key:
            keys.setdefault(row.publisher_backend, set()).add(row.partition_key)
    if not keys:
        return rows
    waiting = {
        (alias, key)
        for alias, some in keys.items()
        for key in keys_that_wait(connection.alias, alias, some)
    }
    if not waiting:
        return rows
    return [
        for_relay(row) if (row.publisher_backend, row.partition_key) in waiting else row
        for row in rows
    ]


def for_relay(row: NewRow) -> NewRow:
    """Return a row as one that the relay delivers."""
    if not isinstance(row, HandedRow):
        return row
    return NewRow._make(row)._replace(status=OutboxEventStatus.PENDING.value)


def insert_and_hand_over(connection: BaseDatabaseWrapper, rows: Sequence[NewRow]) -> int:
    """Write rows in one statement, and hand over the new ones; return how many are new.

    Raises RefusedByDatabase.
    """
    if not any(isinstance(row, HandedRow) for row in rows):
        return insert_rows(connection, rows)
    found = insert_new(connection, rows)
    hand_over(connection, [row for _, row in found])
    return len(found)


def hand_over(connection: BaseDatabaseWrapper, rows: Iterable[object]) -> None:
    """Hand new rows to their backends, as part of the transaction; skip those of relays.

    Raises RefusedByDatabase if a backend can't take them.
    """
    taken: dict[InDatabaseBackend, list[str]] = {}
    for row in rows:
        if isinstance(row, HandedRow):
            taken.setdefault(row.backend, []).append(row.prepared)
    for backend, prepared in taken.items():
        try:
            backend.write(prepared, connection)
        except BackendUnavailable as error:
            raise RefusedByDatabase(f"backend {backend.alias!r}: {error}") from error
