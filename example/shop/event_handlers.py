"""What happens when an event arrives: run by the relay, where the broker is `local`.

A handler runs in a transaction of its own, once per event: the inbox remembers in that same
transaction that the event is done, so an event that is delivered again changes nothing.
"""

from __future__ import annotations

from django_broadcaster.events import CloudEvent
from django_broadcaster.registry import event_registry

from .models import Parcel, ReceivedEvent


@event_registry.register("order.*")
def remember(event: CloudEvent) -> None:
    """Keep a trace of every event in the order of arrival."""
    ReceivedEvent.objects.create(
        event_id=event.id,
        event_type=event.event_type,
        key=event.partition_key or "",
        sequence=event.data["sequence"],
    )


@event_registry.register("order.shipped")
def pack_parcel(event: CloudEvent) -> None:
    """Pack the parcel of a shipped order; a second one would be an error."""
    order_id = event.data["order"]
    Parcel.objects.create(order_id=order_id, tracking=f"BRC-{order_id:08d}")
