"""Billing's handlers of the events that its consumer `shop` receives.

A handler runs once per event, in a transaction of its own. The event that it publishes commits with
its changes, or neither does.
"""

from __future__ import annotations

from decimal import Decimal

from django_broadcaster.events import CloudEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.registry import event_registry

from .events import InvoiceSent
from .models import Invoice, ReceivedEvent


@event_registry.register("order.placed", consumer="shop")
def bill(event: CloudEvent) -> None:
    """Bill an order and publish `invoice.sent`; a second invoice would be an error."""
    order, total = event.data["order"], event.data["total"]
    invoice = Invoice.objects.create(order=order, total=total)
    publisher.publish(
        InvoiceSent(invoice=invoice.pk, order=order, total=Decimal(total)),
        partition_key=event.partition_key,  # the order's, as in the shop
    )


@event_registry.register("order.*", consumer="shop")
def remember(event: CloudEvent) -> None:
    """Record every event of the shop in the order of arrival."""
    ReceivedEvent.objects.create(
        event_id=event.id,
        event_type=event.event_type,
        key=event.partition_key or "",
        sequence=event.data["sequence"],
    )
