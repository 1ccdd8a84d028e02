"""The shop's handlers.

If the broker is `local`, the relay runs those of the shop's own events. With a broker, these events
go to billing, and the shop handles the events that billing answers with.

A handler runs once per event, in a transaction of its own. The inbox records the event in the same
transaction, so a duplicate delivery changes nothing.
"""

from __future__ import annotations

from django_broadcaster.events import CloudEvent
from django_broadcaster.registry import event_registry

from .models import InvoiceNote, Parcel, ReceivedEvent


@event_registry.register("order.*")
def remember(event: CloudEvent) -> None:
    """Record every event in the order of arrival."""
    ReceivedEvent.objects.create(
        event_id=event.id,
        event_type=event.event_type,
        key=event.partition_key or "",
        sequence=event.data["sequence"],
    )


@event_registry.register("order.shipped")
def pack_parcel(event: CloudEvent) -> None:
    """Create the parcel of a shipped order; a second parcel would be an error."""
    order_id = event.data["order"]
    Parcel.objects.create(order_id=order_id, tracking=f"BRC-{order_id:08d}")


@event_registry.register("invoice.sent", consumer="billing")
def note_invoice(event: CloudEvent) -> None:
    """Note on the order that billing has sent its invoice."""
    InvoiceNote.objects.create(order_id=event.data["order"], number=event.data["invoice"])
