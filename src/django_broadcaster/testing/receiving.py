"""Events in a test that a consumer would receive from its broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import router

if TYPE_CHECKING:
    from django_broadcaster.events import CloudEvent
    from django_broadcaster.models import OutboxEvent


def receive_event(event: CloudEvent, consumer: str) -> OutboxEvent:
    """Write an event to the outbox as a receiver of this consumer does; return its row.

    `drain` runs the consumer's handlers then. No broker is needed. For an event that has
    been received before, the row of the first time is returned.

    Args:
        event: The event that the broker would deliver.
        consumer: The alias of the consumer in OUTBOX_CONSUMERS.

    Raises:
        BackendConfigurationError: OUTBOX_CONSUMERS has no such consumer, or is wrong.
        Rejected: No row can hold the event; a receiver would write a dead letter.
    """
    from django_broadcaster.consumers import Delivery, ReceivedMessage
    from django_broadcaster.consumers.handler import consumers
    from django_broadcaster.consumers.rows import Writer
    from django_broadcaster.models import OutboxEvent

    using = router.db_for_write(OutboxEvent)
    backend = consumers.delivers_to(consumer)
    message = ReceivedMessage(body=b"")  # which only a dead letter would have
    Writer(using, consumer, backend).write_valid([Delivery(message, event=event)])
    return OutboxEvent.objects.using(using).get(
        event_id=event.id,
        source=event.source,
        publisher_backend=backend,
        publisher_config__consumer=consumer,
    )
