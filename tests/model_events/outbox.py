"""What the changes of a test have published."""

from __future__ import annotations

from django_broadcaster.events import CloudEvent
from django_broadcaster.models import OutboxEvent


def published() -> list[CloudEvent]:
    """Return the events of the outbox, in publish order."""
    return [row.cloud_event for row in OutboxEvent.objects.order_by("id")]


def clear() -> None:
    """Remove the events of what a test has prepared."""
    OutboxEvent.objects.all()._raw_delete(OutboxEvent.objects.db)
