"""Rows that an application writes through the model: `OutboxEvent.objects.create(...)`.

They are validated, filled in and delivered like those of `publish_event`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connections
from django.db.models import JSONField, Value

from django_broadcaster import encryption
from django_broadcaster.backends.handler import backends
from django_broadcaster.events import JSON_NULL, SPEC_VERSION, CloudEvent
from django_broadcaster.events.json_format import parse_json
from django_broadcaster.exceptions import InvalidEvent
from django_broadcaster.models import OutboxEvent
from django_broadcaster.models.managers import aware
from django_broadcaster.notify import notify_after_commit
from django_broadcaster.signals import rows_inserted, rows_to_insert
from django_broadcaster.states import OutboxEventStatus
from django_broadcaster.store import NewRow

from .call import PublishCall, event_of
from .handing_over import HandedRow, for_relay, hand_over, in_order, insert_and_hand_over
from .insertion import has_receivers, send_created
from .transactions import check_transaction

_FILLED = (
    *("event_id", "source", "event_type", "subject", "data_content_type", "data_schema"),
    *("data_binary", "sealed", "partition_key", "publisher_backend", "identity", "max_retries"),
)
"""Columns with the same value in a `NewRow` and in the model: text, bytes or an integer."""


_REPEATED = ("status", "publisher_backend", "max_retries")
"""Columns that decide where an event goes; an INSERT that is repeated needs them as they were."""


def fill_in(events: Sequence[OutboxEvent], using: str, *, may_skip: bool = False, **_: Any) -> None:
    """Validate events before their INSERT, and fill in the other columns.

    If the INSERT `may_skip` events that exist already, the relay delivers the new ones: nothing
    shows here which these are. Raises PublishError.
    """
    check_transaction(connections[using])
    call = PublishCall(using, backends.default_alias)
    for event in events:
        _reset(event)
    rows = [_rows_of(event, call) for event in events]
    if may_skip:
        rows = [[for_relay(row), *copies] for row, *copies in rows]
    checked = iter(in_order(connections[using], [row for some in rows for row in some]))
    for event, some in zip(events, rows, strict=True):
        _take(event, [next(checked) for _ in some])


def announce(events: Sequence[OutboxEvent], using: str, **_: Any) -> None:
    """Insert the copies for further backends, hand events over, and tell relays and receivers.

    Raises BrokenTransaction if a receiver undoes the transaction.
    """
    copies = [row for event in events for row in event.__dict__.pop("_copies", ())]
    rows = [event.__dict__.pop("_row", event) for event in events]
    hand_over(connections[using], rows)
    if copies:
        insert_and_hand_over(connections[using], copies)
    of_relays = (row for row in (*rows, *copies) if not isinstance(row, HandedRow))
    for alias in sorted({row.publisher_backend for row in of_relays}):
        notify_after_commit(connections[using], alias)
    if has_receivers():
        send_created(connections[using], events)


def _rows_of(event: OutboxEvent, call: PublishCall) -> list[NewRow]:
    if event.spec_version != SPEC_VERSION:
        raise InvalidEvent("spec_version", f'must be "{SPEC_VERSION}"')
    given = _uuid_of(event.id)
    if given:  # as the key of a row was in version 0.1
        event.event_id = event.event_id or given
        event.id = None
    delivery = call.delivery(event.scheduled_at, event.max_retries, event.publisher_config or None)
    return call.rows(
        _event_of(event),
        delivery,
        backend=event.publisher_backend or None,
        partition_key=_given(event.partition_key),
        unique=_given(event.event_id) is not None,
    )


def _event_of(event: OutboxEvent) -> CloudEvent:
    """Return the event of an incomplete row; raises InvalidEvent or CannotUnseal."""
    _unseal(event)
    data = event.data if event.data_binary is None else bytes(event.data_binary)
    time = event.time
    if isinstance(time, datetime) and not settings.USE_TZ:
        time = aware(time)
    return event_of(
        event.event_type,
        event.source,
        JSON_NULL if _is_null(data) else data,
        event.subject,
        event_id=_given(event.event_id),
        time=time,
        extensions=event.extensions,
        data_content_type=event.data_content_type,
        data_schema=event.data_schema,
    )


def _unseal(event: OutboxEvent) -> None:
    """Decrypt the data of a row, which are encrypted again later; raises CannotUnseal.

    A row is encrypted before its INSERT, which may fail and be repeated. It may also be a copy.
    """
    if event.sealed is None or event.data is not None or event.data_binary is not None:
        return
    text, event.data_binary = encryption.unseal(event.sealed)
    if text is not None:
        data = parse_json(text)
        event.data = Value(None, JSONField()) if data is None else data


def _uuid_of(key: Any) -> str:
    """Return a key that is a UUID or its text as text; "" for any other key."""
    if isinstance(key, UUID):
        return str(key)
    try:
        return str(UUID(key)) if isinstance(key, str) and not key.isdecimal() else ""
    except ValueError:
        return ""


def _given(value: Any) -> Any:
    """Return the value of a column, None if it is empty; 0 is a value."""
    return None if value in (None, "") else value


def _is_null(data: Any) -> bool:
    """Return True for `Value(None, JSONField())`, with which Django writes JSON's null."""
    return hasattr(data, "resolve_expression") and getattr(data, "value", ...) is None


def _reset(event: OutboxEvent) -> None:
    """Undo what an earlier INSERT of the event has filled in, which was rolled back or failed."""
    for name in ("_row", "_copies"):
        event.__dict__.pop(name, None)
    for name, (given, filled_in) in event.__dict__.pop("_filled_in", {}).items():
        if getattr(event, name) == filled_in:  # the caller has not changed it since
            setattr(event, name, given)


def _take(event: OutboxEvent, rows: Sequence[NewRow]) -> None:
    row, *copies = rows
    given = {name: getattr(event, name) for name in _REPEATED}
    for name in _FILLED:
        setattr(event, name, getattr(row, name))
    partition: Any = event.partition
    if partition is None:
        event.partition = row.partition
    if row.data is None:  # none, binary, or encrypted
        event.data = None
    if event.status == OutboxEventStatus.PENDING:
        event.status = OutboxEventStatus(row.status)
        filled_in = {name: (given[name], getattr(event, name)) for name in _REPEATED}
        event.__dict__.update(_row=row, _copies=copies, _filled_in=filled_in)


rows_to_insert.connect(fill_in, sender=OutboxEvent, dispatch_uid="django_broadcaster.fill_in")
rows_inserted.connect(announce, sender=OutboxEvent, dispatch_uid="django_broadcaster.announce")
