"""Tests of billing: `python example/manage.py test billing --settings billing_site.settings`."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.test import TestCase

from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.testing import assert_published

from .models import Invoice, ReceivedEvent


class HandlersTest(TestCase):
    """The handlers of the shop's events."""

    def receive(self, event_type: str, sequence: int, **config: Any) -> None:
        """Write an event to the outbox as a receiver does, and run its handlers."""
        with transaction.atomic():
            publisher.publish_event(
                event_type,
                "/shop/orders",
                {"order": 7, "total": "19.00", "sequence": sequence},
                partition_key="order-7",
                publisher_config={"consumer": "shop", **config},
            )
        publisher.process_pending_events()

    def test_an_order_is_billed(self) -> None:
        """A placed order gets an invoice, and an event of it with the key of the order."""
        self.receive("order.placed", 1)
        invoice = Invoice.objects.get()
        assert (invoice.order, str(invoice.total)) == (7, "19.00")
        data = {"invoice": invoice.pk, "order": 7, "total": "19.00"}
        sent = assert_published("invoice.sent", data=data)
        assert sent.partition_key == "order-7"

    def test_later_steps(self) -> None:
        """Other events of an order are recorded in their order, and bill nothing."""
        self.receive("order.paid", 2)
        self.receive("order.shipped", 3)
        assert not Invoice.objects.exists()
        recorded = ReceivedEvent.objects.order_by("id").values_list("key", "sequence")
        assert list(recorded) == [("order-7", 2), ("order-7", 3)]

    def test_own_event(self) -> None:
        """An event that no consumer received bills nothing."""
        self.receive("order.placed", 1, consumer="")
        assert not Invoice.objects.exists()
        assert OutboxEvent.objects.count() == 1
