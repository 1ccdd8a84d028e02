"""Published events as a reader of a failed test needs them: one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django_broadcaster.exceptions import CannotUnseal
from django_broadcaster.states import OutboxEventStatus

if TYPE_CHECKING:
    from django_broadcaster.models import OutboxEvent

DATA_SHOWN = 300
"""Characters of an event's data that are shown."""


def data_of(event: OutboxEvent) -> Any:
    """Return the event's data as published: decrypted, and bytes as bytes."""
    if event.sealed is not None or event.data_binary is not None:
        return event.cloud_event.data
    return event.data


def describe(event: OutboxEvent) -> str:
    """Return an event in one line: what it is, where it goes, and its data."""
    parts = [f"{event.event_type} from {event.source}"]
    if event.subject:
        parts.append(f"subject {event.subject!r}")
    if event.partition_key:
        parts.append(f"key {event.partition_key!r}")
    parts.append(f"to {event.publisher_backend!r}")
    if event.status == OutboxEventStatus.SCHEDULED:
        parts.append(f"scheduled for {event.scheduled_at}")
    parts.append(f"data {_shown_data(event)}")
    return ", ".join(parts)


def _shown_data(event: OutboxEvent) -> str:
    try:
        data = repr(data_of(event))
    except CannotUnseal:
        return "(encrypted)"
    return data if len(data) <= DATA_SHOWN else f"{data[:DATA_SHOWN]}..."
