"""The services of the demo: what is in their outboxes, and what their handlers have written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db.models import Model

from django_broadcaster.models import OutboxEvent, OutboxEventStatus, OutboxRelay
from django_broadcaster.states import UNDELIVERED

from .judge import Event
from .worker import Worker


@dataclass(frozen=True)
class Service:
    """A service: its worker, its outbox, and the table that its handlers write."""

    name: str
    worker: Worker
    handled: type[Model]  # has a row for each event that was handled
    database: str = "default"

    def published(self) -> int:
        """Return the number of events that the service has published itself."""
        return self._events(publisher_backend="default").count()

    def backlog(self) -> int:
        """Return the number of undelivered events."""
        return self._events(status__in=UNDELIVERED).count()

    def arrived(self) -> int:
        """Return the number of events that were handled, including duplicates."""
        return self.handled._default_manager.count()

    def unmarked(self) -> int:
        """Return how many events were handled and are not marked as delivered."""
        undelivered = self._events(status__in=UNDELIVERED).values("event_id")
        return self.handled._default_manager.filter(event_id__in=undelivered).count()

    def in_flight(self) -> int:
        """Return the number of undelivered events in the last batch of each relay."""
        batches = OutboxRelay.objects.using(self.database).exclude(in_flight_from=None)
        return sum(
            self._events(
                status=OutboxEventStatus.PENDING,
                publisher_backend=relay.backend,
                id__range=(relay.in_flight_from, relay.in_flight_to),
            ).count()
            for relay in batches
        )

    def dead_letters(self) -> list[str]:
        """Return a line for each of the first dead letters, with its error."""
        failed = self._events(status=OutboxEventStatus.FAILED).order_by("id")[:5]
        return [f"  dead letter of {self.name}: {event}: {event.last_error}" for event in failed]

    def failed(self) -> int:
        """Return the number of dead letters."""
        return self._events(status=OutboxEventStatus.FAILED).count()

    def _events(self, **conditions: Any) -> Any:
        return OutboxEvent.objects.using(self.database).filter(**conditions)


def the_shop(worker: Worker, broker: str) -> Service:
    """Return the shop, which handles its own events, or with a broker those of billing."""
    from shop.models import InvoiceNote, ReceivedEvent

    if broker == "local":
        return Service("shop", worker, ReceivedEvent)
    return Service("shop", worker, InvoiceNote)


def the_billing(worker: Worker) -> Service:
    """Return billing, which handles the events of the shop."""
    from billing.models import ReceivedEvent

    return Service("billing", worker, ReceivedEvent, database="billing")


def handled_events(broker: str) -> list[Event]:
    """Return the shop's events that a handler recorded, in the order in which it ran."""
    if broker == "local":
        from shop.models import ReceivedEvent
    else:
        from billing.models import ReceivedEvent
    rows = ReceivedEvent.objects.order_by("id").values_list("event_id", "key", "sequence")
    return [Event(*row) for row in rows]


def billed_orders() -> list[Event]:
    """Return the orders of billing's invoices, in the order of the invoices."""
    from billing.models import Invoice

    orders = Invoice.objects.order_by("id").values_list("order", flat=True)
    return [order_of(f"order-{order}") for order in orders]


def noted_orders() -> list[Event]:
    """Return the orders of the invoices that came back to the shop, in the order of arrival."""
    from shop.models import InvoiceNote

    orders = InvoiceNote.objects.order_by("id").values_list("order_id", flat=True)
    return [order_of(f"order-{order}") for order in orders]


def order_of(key: str) -> Event:
    """Return what stands for an order as a whole, by the key of its events."""
    return Event(key, key, 1)
