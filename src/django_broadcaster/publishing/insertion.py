"""Write rows, notify the relays and send `event_created`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper

from django_broadcaster.exceptions import BrokenTransaction, RefusedByDatabase
from django_broadcaster.idle_connections import is_in_transaction
from django_broadcaster.models import OutboxEvent
from django_broadcaster.notify import notify_after_commit
from django_broadcaster.signals import event_created
from django_broadcaster.store import (
    NewRow,
    insert_event,
    insert_new,
    instance_of,
)
from django_broadcaster.transaction_state import NONE, Watch, state_of

from .handing_over import HandedRow, hand_over, in_order, insert_and_hand_over
from .transactions import all_or_nothing, check_transaction


def publish_rows(connection: BaseDatabaseWrapper, rows: Sequence[NewRow]) -> OutboxEvent:
    """Write the rows of one event, all or none, a statement each; return the first.

    If a row with the same identity exists already, it is returned instead. Raises
    WrongTransaction.
    """
    check_transaction(connection)
    rows = in_order(connection, rows)
    if len(rows) == 1 and not isinstance(rows[0], HandedRow):
        return _publish_row(connection, rows[0])
    with all_or_nothing(connection, savepoint=False):
        first, *_ = [_publish_row(connection, row) for row in rows]
    return first


def _publish_row(connection: BaseDatabaseWrapper, row: NewRow) -> OutboxEvent:
    try:
        event, created = insert_event(connection, row)
    except OperationalError as error:
        _explain(error, connection)
        raise
    if created:
        if isinstance(row, HandedRow):
            hand_over(connection, [row])
        else:
            notify_after_commit(connection, row.publisher_backend)
        if has_receivers():
            send_created(connection, [event])
    return event


def write_rows(connection: BaseDatabaseWrapper, rows: Sequence[NewRow]) -> int:
    """Write rows of many events in one statement; return how many are new.

    Instances are made only for receivers of `event_created`: they cost more than all else.
    """
    rows = in_order(connection, rows)
    try:
        if not has_receivers():
            return insert_and_hand_over(connection, rows)
        found = insert_new(connection, rows)
        hand_over(connection, [row for _, row in found])
    except OperationalError as error:
        _explain(error, connection)
        raise
    send_created(connection, [instance_of(connection, *each) for each in found])
    return len(found)


def are_plain(rows: Sequence[NewRow]) -> bool:
    """Return True if nothing but an INSERT is to be done for rows."""
    return not has_receivers() and not any(isinstance(row, HandedRow) for row in rows)


_ISOLATION_REFUSED = 1665
"""The error of MariaDB and MySQL for a change that a statement-based binary log can't record."""


def _explain(error: OperationalError, connection: BaseDatabaseWrapper) -> None:
    """Raise RefusedByDatabase if the server refuses all changes at this isolation level."""
    if connection.vendor == "mysql" and error.args[:1] == (_ISOLATION_REFUSED,):
        raise RefusedByDatabase(
            f"database {connection.alias!r} writes a binary log of statements, which its isolation "
            "level does not allow; see the system check django_broadcaster.E031"
        ) from error


def send_created(connection: Any, events: Sequence[OutboxEvent]) -> None:
    """Send `event_created`; raises BrokenTransaction if receivers undo the open transaction."""
    if not is_in_transaction(connection):
        _send(events)
        return
    with Watch(connection) as watch:
        failure = _send(events)
    if watch.is_broken or (watch.may_have_ended and not _stand(connection, events)):
        if connection.in_atomic_block:
            connection.needs_rollback = True  # also if the caller catches the error
        raise BrokenTransaction(
            "a receiver of event_created met a database error or ended the transaction, so neither "
            "the event nor the caller's changes can be saved; in the receiver, wrap what may fail "
            f"in transaction.atomic() (its error: {failure!r})"
        ) from failure


def _send(events: Sequence[OutboxEvent]) -> Exception | None:
    """Send the signal for each event; return the first error of a receiver."""
    errors = [
        answer
        for event in events
        for _, answer in event_created.send_robust(sender=OutboxEvent, event=event)
        if isinstance(answer, Exception)
    ]
    return errors[0] if errors else None


def _stand(connection: Any, events: Sequence[OutboxEvent]) -> bool:
    """Return True if the transaction in which the events were written is still open."""
    if not events:
        return True
    key: Any = events[0].pk
    # Some databases do not return the keys of the rows of `bulk_create`.
    known = {"event_id": events[0].event_id} if key is None else {"pk": key}
    rows = OutboxEvent.objects.using(connection.alias).filter(**known)
    return state_of(connection) != NONE and rows.exists()


def has_receivers() -> bool:
    """Return True if `event_created` has receivers of outbox events."""
    # The list is nearly always empty, and `has_listeners` takes ten times as long.
    return bool(event_created.receivers) and event_created.has_listeners(OutboxEvent)
