"""The common part of `publish_event` and `publish_cloud_event`: from one event to its rows."""

from __future__ import annotations

from django_broadcaster import tracing
from django_broadcaster.events import CloudEvent
from django_broadcaster.models import OutboxEvent

from .call import PublishCall
from .columns import DeliveryPlan
from .insertion import publish_rows


def publish_one(
    call: PublishCall,
    event: CloudEvent,
    delivery: DeliveryPlan,
    *,
    backend: str | None,
    partition_key: str | None,
    unique: bool,
) -> OutboxEvent:
    """Write the rows of an event; return the first. Raises PublishError."""
    with tracing.publishing(event, lambda: call.aliases(event.event_type, backend)) as call.stamp:
        rows = call.rows(
            event, delivery, backend=backend, partition_key=partition_key, unique=unique
        )
        return publish_rows(call.connection, rows)
