"""Publishing under ASGI: async views, and the async handlers of what they publish."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections, router, transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, override_settings
from django.urls import path

from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import PublishedFromAsync
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.registry import event_registry
from django_broadcaster.testing import (
    assert_not_published,
    assert_published,
    capture_events,
    drain,
)
from tests.app.models import Order
from tests.support.registered import only_handlers
from tests.support.routing import OneDatabase


class Declined(Exception):
    """Ends a view or a handler."""


def place_order(number: str, *, fails: bool) -> None:
    """Write an order together with its event."""
    with transaction.atomic(using=router.db_for_write(Order)):
        Order.objects.create(number=number)
        publisher.publish_event("order.placed", "/shop", subject=number)
        if fails:
            raise Declined


async def checkout(request: HttpRequest, number: str) -> HttpResponse:
    """Place an order as an async view does."""
    await sync_to_async(place_order)(number, fails="fails" in request.GET)
    return HttpResponse("ok")


async def awaiting(request: HttpRequest, number: str) -> HttpResponse:
    """Await each publish call."""
    event = CloudEvent("awaited.cloud_event", "/shop", subject=number)
    many = [{"event_type": "awaited.many", "source": "/shop", "subject": number}] * 2
    row = await publisher.apublish_event("awaited.event", "/shop", subject=number)
    await publisher.apublish_cloud_event(event)
    written = await publisher.apublish_events(many)
    return HttpResponse(f"{row.event_type} {written}")


async def wrong(request: HttpRequest, number: str) -> HttpResponse:
    """Publish without awaiting."""
    publisher.publish_event("order.placed", "/shop", subject=number)
    return HttpResponse("never")


def synchronous(request: HttpRequest, number: str) -> HttpResponse:
    """Place an order in a synchronous view, which Django runs in a thread."""
    place_order(number, fails=False)
    return HttpResponse("ok")


urlpatterns = [
    path(f"{view.__name__}/<str:number>/", view)
    for view in (awaiting, checkout, synchronous, wrong)
]


@pytest.fixture
def served(database: str) -> Iterator[str]:
    """Serve the views; the outbox, its handlers and their tables are on that database."""
    with (
        override_settings(
            ROOT_URLCONF=__name__,
            DATABASE_ROUTERS=[OneDatabase(database)],
            OUTBOX_PUBLISHERS={"default": {"BACKEND": "django_broadcaster.backends.LocalBackend"}},
            OUTBOX_RETRY={"max_retries": 0},
        ),
        only_handlers(),
    ):
        yield database


def get(*paths: str) -> list[str]:
    """Request all paths at the same time, as an ASGI server does; return the answers."""

    async def request_all() -> list[Any]:
        client = AsyncClient()
        return await asyncio.gather(*(client.get(path) for path in paths))

    return [answer.content.decode() for answer in async_to_sync(request_all)()]


def test_async_view_publishes_with_each_awaited_call(served: str) -> None:
    """Each awaited call writes its events, and returns what the synchronous call returns."""
    with capture_events() as events:
        assert get("/awaiting/1/") == ["awaited.event 2"]
    types = ["awaited.event", "awaited.cloud_event", "awaited.many", "awaited.many"]
    assert [event.event_type for event in events] == types
    assert_published("awaited.many", subject="1", count=2)


@pytest.mark.parametrize("view", ["checkout", "synchronous"])
def test_views_publish_in_the_transaction_of_the_order(served: str, view: str) -> None:
    """A function under `atomic` that an async view awaits, and a synchronous view under ASGI."""
    with override_settings(OUTBOX_REQUIRE_TRANSACTION=True):
        assert get(f"/{view}/1/") == ["ok"]
    assert_published("order.placed", subject=1, count=1)
    assert Order.objects.count() == 1


def test_view_that_fails_publishes_nothing(served: str) -> None:
    """If the awaited function raises, neither the order nor its event is there."""
    with pytest.raises(Declined):
        get("/checkout/1/?fails")
    assert_not_published("order.placed")
    assert not Order.objects.exists()


def test_synchronous_call_in_an_async_view_is_refused(served: str) -> None:
    """The error names the right ways, and nothing is published."""
    with pytest.raises(PublishedFromAsync, match="sync_to_async"):
        get("/wrong/1/")
    assert_not_published("order.placed")


def test_concurrent_requests_publish_each_their_own(served: str) -> None:
    """Requests that run at the same time do not share transactions or events."""
    numbers = [str(number) for number in range(6)]
    paths = [f"/{('checkout', 'awaiting')[int(n) % 2]}/{n}/" for n in numbers]
    get(*paths)
    for number in numbers:
        event_type, count = (("order.placed", 1), ("awaited.many", 2))[int(number) % 2]
        assert_published(event_type, subject=number, count=count)
    assert sorted(Order.objects.values_list("number", flat=True)) == ["0", "2", "4"]


@pytest.mark.parametrize("fails", [False, True])
def test_async_handler_publishes_in_its_transaction(served: str, fails: bool) -> None:
    """An awaited call in a handler is part of the handler's transaction: both or neither."""

    @event_registry.register("order.placed")
    async def confirm(event: CloudEvent) -> None:
        await Order.objects.filter(number=event.subject).aupdate(number="confirmed")
        await publisher.apublish_event("order.confirmed", "/shop", subject=event.subject)
        if fails:
            raise Declined

    get("/checkout/1/")
    with override_settings(OUTBOX_REQUIRE_TRANSACTION=True):
        if fails:
            with pytest.raises(Declined):
                drain()
            assert_not_published("order.confirmed")
        else:
            drain()
            assert_published("order.confirmed", subject="1", status="published", count=1)
    assert Order.objects.get().number == ("1" if fails else "confirmed")
    assert OutboxEvent.objects.count() == (1 if fails else 2)
    assert not connections[served].in_atomic_block


def test_async_handler_without_a_transaction(served: str) -> None:
    """With `atomic=False` each awaited call of a handler commits by itself."""

    @event_registry.register("order.placed", atomic=False)
    async def confirm(event: CloudEvent) -> None:
        await publisher.apublish_event("order.confirmed", "/shop", subject=event.subject)
        raise Declined

    get("/checkout/1/")
    with pytest.raises(Declined):
        drain()
    assert_published("order.confirmed", subject=1, count=1)


def test_drain_in_async_code_is_refused(served: str) -> None:
    """Without `sync_to_async`, the error is that of Django's own database calls."""

    async def test() -> None:
        drain()

    with pytest.raises(SynchronousOnlyOperation, match="sync_to_async"):
        async_to_sync(test)()
