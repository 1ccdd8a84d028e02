"""Tests of billing: `python example/manage.py test billing --settings billing_site.settings`."""

from __future__ import annotations

from django.db import transaction
from django.test import TestCase, override_settings

from django_broadcaster.events import CloudEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.testing import (
    assert_not_published,
    assert_published,
    drain,
    receive_event,
)

from .models import Invoice, ReceivedEvent


def order_event(event_type: str, sequence: int) -> CloudEvent:
    """Return an event of order 7 as the shop publishes it."""
    return CloudEvent(
        event_type,
        "/shop/orders",
        {"order": 7, "total": "19.00", "sequence": sequence},
        extensions={"partitionkey": "order-7"},
    )


# No broker is read: the tests write what the consumer would receive.
CONSUMERS = {"shop": {"CONSUMER": "django_broadcaster.consumers.RedisStreamConsumer"}}


@override_settings(OUTBOX_CONSUMERS=CONSUMERS)
class HandlersTest(TestCase):
    """The handlers of the shop's events."""

    def receive(self, event_type: str, sequence: int) -> None:
        """Receive an event of the shop, and run its handlers."""
        receive_event(order_event(event_type, sequence), consumer="shop")
        drain()

    def test_an_order_is_billed(self) -> None:
        """A placed order gets an invoice, and an event of it with the key of the order."""
        self.receive("order.placed", 1)
        invoice = Invoice.objects.get()
        assert (invoice.order, str(invoice.total)) == (7, "19.00")
        data = {"invoice": invoice.pk, "order": 7, "total": "19.00"}
        assert_published("invoice.sent", data=data, partition_key="order-7", count=1)

    def test_later_steps(self) -> None:
        """Other events of an order are recorded in their order, and bill nothing."""
        self.receive("order.paid", 2)
        self.receive("order.shipped", 3)
        assert not Invoice.objects.exists()
        assert_not_published("invoice.sent")
        recorded = ReceivedEvent.objects.order_by("id").values_list("key", "sequence")
        assert list(recorded) == [("order-7", 2), ("order-7", 3)]

    def test_own_event(self) -> None:
        """An event that no consumer received bills nothing."""
        with transaction.atomic():
            publisher.publish_cloud_event(order_event("order.placed", 1))
        drain()
        assert not Invoice.objects.exists()
        assert_not_published("invoice.sent")
