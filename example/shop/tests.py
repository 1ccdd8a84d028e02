"""Tests of the shop: `python example/manage.py test shop`."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import patch

from django.db import IntegrityError, transaction
from django.test import Client, TestCase, override_settings
from django.urls import reverse

from django_broadcaster.events import CloudEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.testing import (
    assert_not_published,
    assert_published,
    capture_events,
    containing,
    drain,
    outbox_clock,
    receive_event,
)

from . import services
from .catalog import stock
from .models import InvoiceNote, Order, Parcel, Product, ReceivedEvent

# No broker is read: the tests write what the consumer would receive.
CONSUMERS = {"billing": {"CONSUMER": "django_broadcaster.consumers.RedisStreamConsumer"}}


class ShopTestCase(TestCase):
    """A shop with products."""

    mug: Product

    @classmethod
    def setUpTestData(cls) -> None:
        """Create the products."""
        stock()
        cls.mug = Product.objects.get(name="Mug")


class ServicesTest(ShopTestCase):
    """Each change is saved together with its event, or neither is."""

    def test_life_of_an_order(self) -> None:
        """An order publishes one event at each step, all with its key."""
        with capture_events() as events:
            order = services.place_order(self.mug, 2)
            services.pay_order(order.pk)
            services.ship_order(order.pk)
        assert [event.event_type for event in events] == [
            "order.placed",
            "order.paid",
            "order.shipped",
        ]
        for sequence, event in enumerate(events, 1):
            data = containing({"order": order.pk, "sequence": sequence})
            assert_published(event.event_type, partition_key=order.key, data=data, count=1)

    def test_rolled_back(self) -> None:
        """An order that is rolled back leaves no event behind."""
        with (
            capture_events() as events,
            self.assertRaisesMessage(RuntimeError, "changed my mind"),
            transaction.atomic(),
        ):
            services.place_order(self.mug)
            assert_published("order.placed", events=events)
            raise RuntimeError("changed my mind")
        assert not Order.objects.exists()
        assert events == []

    def test_refused_event(self) -> None:
        """An order whose event cannot be published is not placed."""
        with (
            patch.object(publisher, "publish", side_effect=ValueError("no")),
            self.assertRaisesMessage(ValueError, "no"),
        ):
            services.place_order(self.mug)
        assert not Order.objects.exists()

    def test_wrong_step(self) -> None:
        """An order cannot be shipped before it is paid."""
        order = services.place_order(self.mug)
        with self.assertRaisesMessage(services.WrongStep, "cannot become shipped"):
            services.ship_order(order.pk)
        assert_not_published("order.shipped")


class DeliveryTest(ShopTestCase):
    """Events reach the handlers."""

    def shipped_order(self) -> Order:
        """Return an order after all its steps."""
        order = services.place_order(self.mug)
        services.pay_order(order.pk)
        return services.ship_order(order.pk)

    def test_handlers(self) -> None:
        """Delivered events are remembered in order, and a shipped order is packed."""
        order = self.shipped_order()
        drain()
        received = ReceivedEvent.objects.order_by("id").values_list("key", "sequence")
        assert list(received) == [(order.key, 1), (order.key, 2), (order.key, 3)]
        assert Parcel.objects.get().order == order

    def test_failed_handler(self) -> None:
        """A parcel that could not be created is created at the retry; other handlers ran once."""
        order = self.shipped_order()
        wrong = Parcel.objects.create(order=order, tracking="WRONG")
        with self.assertRaisesMessage(IntegrityError, "shop_parcel"):
            drain()
        wrong.delete()
        with outbox_clock() as clock:
            clock.advance(minutes=1)
            drain()
        assert Parcel.objects.get().tracking.startswith("BRC-")
        assert ReceivedEvent.objects.filter(event_type="order.shipped").count() == 1

    @override_settings(OUTBOX_CONSUMERS=CONSUMERS)
    def test_invoice(self) -> None:
        """The invoice of which billing tells is noted on the order, whose page shows it."""
        order = services.place_order(self.mug)
        invoice = CloudEvent(
            "invoice.sent",
            "/billing/invoices",
            {"invoice": 5, "order": order.pk, "total": "14.00"},
            extensions={"partitionkey": order.key},
        )
        receive_event(invoice, consumer="billing")
        drain()
        assert InvoiceNote.objects.get(order=order).number == 5
        self.assertContains(self.client.get(reverse("shop:order", args=[order.pk])), "Invoice 5")


class PagesTest(ShopTestCase):
    """The pages, as a browser uses them."""

    def test_products(self) -> None:
        """The first page offers every product."""
        answer = self.client.get("/")
        self.assertContains(answer, "Order</button>", count=Product.objects.count())

    def test_from_order_to_parcel(self) -> None:
        """One can order, pay and ship with buttons, and see the events of the order."""
        answer = self.client.post(reverse("shop:place", args=[self.mug.pk]), follow=True)
        order = Order.objects.get()
        self.assertContains(answer, f"Order #{order.pk}")
        self.assertContains(answer, "data-on-the-way")
        for _ in range(2):
            self.client.post(reverse("shop:advance", args=[order.pk]))
        drain()
        answer = self.client.get(reverse("shop:events", args=[order.pk]))
        for event_type in ("order.placed", "order.paid", "order.shipped"):
            self.assertContains(answer, event_type)
        self.assertContains(answer, "BRC-")
        self.assertNotContains(answer, "data-on-the-way")

    def test_second_click(self) -> None:
        """Shipping twice says why not, and publishes nothing."""
        order = services.place_order(self.mug)
        for _ in range(2):
            self.client.post(reverse("shop:advance", args=[order.pk]))
        answer = self.client.post(reverse("shop:advance", args=[order.pk]), follow=True)
        self.assertContains(answer, "cannot become shipped")
        assert_published("order.shipped", count=1)

    def test_forged_form(self) -> None:
        """A form without its token is refused."""
        client = Client(enforce_csrf_checks=True)
        answer = client.post(reverse("shop:place", args=[self.mug.pk]))
        assert answer.status_code == 403

    def test_unknown(self) -> None:
        """The status of pages of unknown orders and products is 404."""
        for name in ("order", "events"):
            assert self.client.get(reverse(f"shop:{name}", args=[99])).status_code == 404
        for name in ("place", "advance"):
            assert self.client.post(reverse(f"shop:{name}", args=[99])).status_code == 404


class ApiTest(ShopTestCase):
    """The JSON endpoint."""

    def place(self, body: Any, content_type: str = "application/json") -> Any:
        """Post a body, as JSON unless it is text already."""
        text = body if isinstance(body, str) else json.dumps(body)
        return self.client.post("/api/orders/", text, content_type=content_type)

    def test_place_and_read(self) -> None:
        """A placed order can be read, with the status of its event."""
        answer = self.place({"product": self.mug.pk, "quantity": 3})
        assert answer.status_code == 201
        placed = answer.json()
        assert (placed["total"], placed["status"]) == ("42.00", "placed")
        assert placed["events"][0]["status"] == "pending"
        drain()
        read = self.client.get(f"/api/orders/{placed['id']}/").json()
        assert read["events"][0]["status"] == "published"

    def test_bad_orders(self) -> None:
        """An invalid order gets an error with the reason, and publishes nothing."""
        mug = self.mug.pk
        bodies: list[Any] = [
            "{",
            [],
            {},
            {"product": "1"},
            {"product": 10**30},
            {"product": mug, "quantity": 0},
            {"product": mug, "quantity": True},
            {"product": mug, "quantity": 1.5},
        ]
        for body in bodies:
            with self.subTest(body=body), capture_events() as events:
                answer = self.place(body)
                assert answer.status_code == 400
                assert "error" in answer.json()
                assert events == []

    def test_other_content_type(self) -> None:
        """A form of another site, which can't send JSON, is refused."""
        assert self.place("{}", "text/plain").status_code == 415

    def test_unknown_order(self) -> None:
        """The status of an unknown order is 404."""
        assert self.client.get("/api/orders/99/").status_code == 404
