"""From rows to the database, and to those who wait for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from django.db import OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper

from django_broadcaster.exceptions import RefusedByDatabase
from django_broadcaster.models import OutboxEvent
from django_broadcaster.notify import notify_after_commit
from django_broadcaster.querysets import NewRow, insert_event, insert_events, insert_rows
from django_broadcaster.signals import event_created

from .transactions import all_or_nothing, check_transaction


def publish_rows(connection: BaseDatabaseWrapper, rows: Sequence[NewRow]) -> OutboxEvent:
    """Write the rows of one event, all or none, a statement each; return the first.

    A row whose identity stands there already is read instead. Raises WrongTransaction.
    """
    check_transaction(connection)
    if len(rows) == 1:
        return _publish_row(connection, rows[0])
    with all_or_nothing(connection, savepoint=False):
        first, *_ = [_publish_row(connection, row) for row in rows]
    return first


def _publish_row(connection: BaseDatabaseWrapper, row: NewRow) -> OutboxEvent:
    with _explained(connection):
        event, created = insert_event(OutboxEvent, connection, row)
    if created:
        notify_after_commit(connection, row.publisher_backend)
        if _has_receivers():
            _tell([event])
    return event


def write_rows(connection: BaseDatabaseWrapper, rows: Sequence[NewRow]) -> int:
    """Write rows of many events in one statement; return how many are new.

    Without receivers of `event_created` no instances are made, which would cost more than all else.
    """
    with _explained(connection):
        if not _has_receivers():
            return insert_rows(connection, rows)
        created = insert_events(OutboxEvent, connection, rows)
    _tell(created)
    return len(created)


_ISOLATION_REFUSED = 1665
"""The error of MariaDB and MySQL for a change that a binary log of statements can't have."""


@contextmanager
def _explained(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Raise RefusedByDatabase where the server refuses all changes at this isolation level."""
    try:
        yield
    except OperationalError as error:
        if connection.vendor != "mysql" or error.args[:1] != (_ISOLATION_REFUSED,):
            raise
        raise RefusedByDatabase(
            f"database {connection.alias!r} writes a binary log of statements, which its isolation "
            "level does not allow; see the system check django_broadcaster.E031"
        ) from error


def _tell(events: Sequence[OutboxEvent]) -> None:
    for event in events:
        event_created.send_robust(sender=OutboxEvent, event=event)


def _has_receivers() -> bool:
    # The list is nearly always empty, and to ask for listeners takes ten times as long.
    return bool(event_created.receivers) and event_created.has_listeners(OutboxEvent)
