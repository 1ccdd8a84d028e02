"""Publishing from async code: the awaitable calls, and what the synchronous ones say there."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections, transaction
from django.test import override_settings

from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import (
    InvalidEvent,
    PublishedFromAsync,
    PublishError,
    WrongTransaction,
)
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import OutboxPublisher, publisher
from tests.app.models import Order

from .statements import statements

METHODS = ("publish_event", "publish_cloud_event", "publish_events")


def event() -> CloudEvent:
    """An event, made anew for each call."""
    return CloudEvent("order.placed", "/shop", id="1")


def arguments(name: str) -> tuple[Any, ...]:
    """Arguments of a publish method for one event."""
    if name == "publish_event":
        return "order.placed", "/shop", {"order": 1}
    return ([event()],) if name == "publish_events" else (event(),)


def run(function: Callable[[], Any]) -> Any:
    """Await an async function; its synchronous parts run in this thread, as in a request's."""
    return async_to_sync(function)()


@pytest.mark.parametrize("name", METHODS)
def test_awaitable_calls_write_the_event(database: str, name: str) -> None:
    """Each call has an awaitable form, which writes the event and returns the same."""

    async def view() -> Any:
        return await getattr(publisher, f"a{name}")(*arguments(name), using=database)

    returned = run(view)
    row = OutboxEvent.objects.using(database).get()
    assert returned == (1 if name == "publish_events" else row)
    assert (row.event_type, row.source) == ("order.placed", "/shop")


@pytest.mark.parametrize("name", METHODS)
def test_awaitable_calls_have_the_signature_of_the_others(name: str) -> None:
    """An editor shows the same arguments, and `inspect` says that the call is a coroutine."""
    method = getattr(OutboxPublisher, f"a{name}")
    assert inspect.signature(method) == inspect.signature(getattr(OutboxPublisher, name))
    assert inspect.iscoroutinefunction(method)
    assert method.__qualname__ == f"OutboxPublisher.a{name}"


def test_awaitable_calls_raise_the_same_errors(database: str) -> None:
    """An invalid argument is the same typed error, before any SQL."""

    async def view() -> None:
        await publisher.apublish_event("", "/shop", using=database)

    with statements() as executed, pytest.raises(InvalidEvent) as caught:
        run(view)
    assert (caught.value.field, executed) == ("event_type", [])


def test_awaitable_calls_run_the_method_of_a_subclass(database: str) -> None:
    """A project that overrides `publish_event` gets its own in the awaitable form as well."""

    class Shouting(OutboxPublisher):
        def publish_event(self, event_type: str, *args: Any, **kwargs: Any) -> OutboxEvent:
            return super().publish_event(event_type.upper(), *args, **kwargs)

    async def view() -> None:
        await Shouting().apublish_event("order.placed", "/shop", using=database)

    run(view)
    assert OutboxEvent.objects.using(database).get().event_type == "ORDER.PLACED"


@pytest.mark.parametrize("name", METHODS)
def test_synchronous_call_in_async_code_shows_the_right_way(database: str, name: str) -> None:
    """It is refused before any SQL by an error that names both ways, and nothing is written."""

    async def view() -> None:
        getattr(publisher, name)(*arguments(name), using=database)

    with statements() as executed, pytest.raises(PublishedFromAsync) as caught:
        run(view)
    assert isinstance(caught.value, PublishError)
    assert isinstance(caught.value, SynchronousOnlyOperation)
    for way in ("transaction.atomic()", "sync_to_async", "await apublish_event()"):
        assert way in str(caught.value)
    assert executed == []
    assert not OutboxEvent.objects.using(database).exists()


def test_synchronous_call_in_async_code_reads_no_event(database: str) -> None:
    """A generator of events is not begun by a call that is refused."""
    read = []

    def events() -> Iterator[CloudEvent]:
        read.append(1)
        yield event()

    async def view() -> None:
        publisher.publish_events(events(), using=database)

    with pytest.raises(PublishedFromAsync):
        run(view)
    assert read == []


def test_django_may_be_told_to_allow_it(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With DJANGO_ALLOW_ASYNC_UNSAFE, as in a notebook, the synchronous call works."""
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")

    async def cell() -> None:
        publisher.publish_event("order.placed", "/shop", using=database)
        connections.close_all()  # those of the event loop's thread

    run(cell)
    assert OutboxEvent.objects.using(database).exists()


@pytest.mark.parametrize("fails", [False, True])
def test_change_and_event_in_one_awaited_function_are_one_transaction(
    database: str, fails: bool
) -> None:
    """The way that the error names: the order and its event are both there, or neither is."""

    @transaction.atomic(using=database)
    def place_order() -> None:
        order = Order.objects.using(database).create()
        publisher.publish_event("order.placed", "/shop", {"order": order.pk}, using=database)
        if fails:
            raise ZeroDivisionError

    async def view() -> None:
        try:
            await sync_to_async(place_order)()
        except ZeroDivisionError:
            assert fails

    run(view)
    written = 0 if fails else 1
    assert OutboxEvent.objects.using(database).count() == written
    assert Order.objects.using(database).count() == written


@override_settings(OUTBOX_REQUIRE_TRANSACTION=True)
def test_awaitable_call_is_outside_of_any_transaction(database: str) -> None:
    """Where a transaction is required, an awaited call has none, and the error says what to do."""

    async def view() -> None:
        await Order.objects.using(database).acreate()
        await publisher.apublish_event("order.placed", "/shop", using=database)

    with pytest.raises(WrongTransaction, match="publish where the change is made"):
        run(view)
    assert not OutboxEvent.objects.using(database).exists()
