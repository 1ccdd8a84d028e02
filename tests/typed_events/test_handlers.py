"""Handlers of declared classes get events of these classes; others become dead letters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from django.db import InterfaceError, OperationalError

from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import Rejected, Retry, TransientError
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.registry import EventHandlerRegistry, event_registry
from django_broadcaster.typed_events import (
    VERSION,
    EventType,
    event_types,
    from_cloud_event,
    to_cloud_event,
    typed_event,
    upcasts,
)
from tests.app.models import Order
from tests.relay.conftest import Join, clock, drain, join
from tests.support.databases import ANY
from tests.support.registered import only_handlers
from tests.support.routing import OneDatabase

from .classes import ALL_KINDS, KINDS, DataclassOrder, PydanticOrder, arguments, data_of, order

if TYPE_CHECKING:
    from pytest_django import Settings

__all__ = ["clock", "join"]


@pytest.fixture
def local(database: str, settings: Settings) -> Iterator[str]:
    """The database of the outbox, whose events go to handlers."""
    settings.DATABASE_ROUTERS = [OneDatabase(database)]
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": "django_broadcaster.backends.LocalBackend"}
    }
    with only_handlers():
        yield database


def cloud_event(kind: type[Any], data: Any, version: Any = 3) -> CloudEvent:
    """Return an event that another program has published."""
    declared = event_types.of(kind)
    return CloudEvent(declared.type, "/elsewhere", data, extensions={VERSION: version})


# --- What a handler gets -------------------------------------------------------------------------


@ALL_KINDS
def test_a_handler_gets_the_event_that_was_published(
    local: str, join: Join, kind: type[Any]
) -> None:
    """The event of the class is equal to the one that was published, on every database."""
    found: list[Any] = []
    event_registry.register(kind, name="handler")(found.append)
    publisher.publish(*arguments(order(kind)))
    drain(join())
    assert found == [order(kind)]


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_a_second_parameter_without_a_default_gets_the_cloud_event(local: str, join: Join) -> None:
    """Of functions, methods and async functions; a parameter with a default keeps it."""
    found: list[tuple[Any, Any]] = []

    class Shop:
        def handle(self, event: DataclassOrder, cloud_event: CloudEvent) -> None:
            found.append((event, cloud_event))

    @event_registry.register(DataclassOrder)
    async def awaited(event: DataclassOrder, cloud_event: CloudEvent) -> None:
        found.append((event, cloud_event))

    @event_registry.register(DataclassOrder)
    def optional(event: DataclassOrder, dry_run: bool = False) -> None:
        found.append((event, dry_run))

    event_registry.register(DataclassOrder, name="method")(Shop().handle)
    row = publisher.publish(order(DataclassOrder))
    drain(join())
    event = OutboxEvent.objects.get(pk=row.pk).cloud_event
    expected = order(DataclassOrder)
    assert found == [(expected, event), (expected, False), (expected, event)]


@ALL_KINDS
def test_fields_that_the_class_does_not_know_are_ignored(kind: type[Any]) -> None:
    """A publisher may add fields before its consumers have them, and leave defaults out."""
    event = cloud_event(kind, data_of(added={"later": True}))
    assert from_cloud_event(kind, event) == order(kind)


def test_handlers_without_a_class_get_the_cloud_event(local: str) -> None:
    """A pattern may match the events of a class, too."""
    found: list[Any] = []
    event_registry.register("order.*", name="pattern")(found.append)
    event = to_cloud_event(order(DataclassOrder))
    assert event_registry.handle_event(event)
    assert found == [event]


# --- Data that do not fit ------------------------------------------------------------------------

MISFITS = [
    (data_of(order_id="7"), "data.order_id"),
    (data_of(order_id=None), "data.order_id"),
    (data_of(lines=[{"product": "Teapot", "price": "cheap"}]), "data.lines[0].price"),
    (data_of(lines=[{"product": "Teapot"}]), "data.lines[0].price"),
    ([], "data"),
    ("text", "data"),
    (None, "data"),
]


@ALL_KINDS
@pytest.mark.parametrize(("data", "field"), MISFITS)
def test_data_that_do_not_fit_are_rejected_with_the_field(
    kind: type[Any], data: Any, field: str
) -> None:
    """The error says where the data are wrong, and has nothing of them."""
    with pytest.raises(Rejected) as rejected:
        from_cloud_event(kind, cloud_event(kind, data))
    assert str(rejected.value).startswith(f"{field}: ")
    assert kind.__qualname__ in str(rejected.value)
    assert "cheap" not in str(rejected.value)


def test_a_rejected_event_is_a_dead_letter_and_is_replayed(local: str, join: Join) -> None:
    """No retry is spent on it; after a correction, a replay runs the handler."""
    Order.objects.using(local).create(number="before")
    event_registry.register(DataclassOrder, name="handler")(
        lambda event: Order.objects.create(number=str(event.order_id))
    )
    row = publisher.publish_event(
        "order.dataclass", "/shop", data_of(order_id="seven"), extensions={VERSION: 3}
    )
    loop = join()
    drain(loop)
    found = OutboxEvent.objects.get(pk=row.pk)
    assert (found.status, found.retry_count) == ("failed", 0)
    assert "data.order_id: must be an integer, not text" in found.last_error
    found.data["order_id"] = 7
    OutboxEvent.objects.filter(pk=row.pk).update(data=found.data)
    OutboxEvent.objects.dead_letters().replay()
    drain(loop)
    assert OutboxEvent.objects.get(pk=row.pk).status == "published"
    assert list(Order.objects.values_list("number", flat=True)) == ["before", "7"]


def test_bytes_are_rejected() -> None:
    """Only JSON can be decoded."""
    with pytest.raises(Rejected, match=r"^data: must be JSON, not bytes"):
        from_cloud_event(DataclassOrder, cloud_event(DataclassOrder, b"{}"))


# --- Versions ------------------------------------------------------------------------------------


@ALL_KINDS
@pytest.mark.parametrize("version", [1, 2, "1", "2", None])
def test_data_of_an_older_version_are_upcast(kind: type[Any], version: Any) -> None:
    """Each upcaster leads to the next version; without a version it is 1, and text is a number."""
    old = data_of(order_id=None, id=7)
    price = "19.90"
    if version not in (2, "2"):
        del old["lines"]
        old["product"], price = "Teapot", "0"
    event = cloud_event(kind, old, version)
    lines = [KINDS[kind](product="Teapot", price=Decimal(price))]
    assert from_cloud_event(kind, event) == order(kind, lines=lines)
    assert "id" in event.data  # the event itself is unchanged: other handlers have it, too


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_an_event_of_a_newer_version_is_retried(local: str, join: Join) -> None:
    """During a deployment another release can read it, which a dead letter would prevent."""
    event_registry.register(DataclassOrder, name="handler")(lambda event: None)
    row = publisher.publish_event("order.dataclass", "/shop", data_of(), extensions={VERSION: 4})
    drain(join())
    found = OutboxEvent.objects.get(pk=row.pk)
    assert (found.status, found.retry_count) == ("retry", 1)
    assert "dataversion: is 4, newer than version 3 of" in found.last_error
    with pytest.raises(TransientError):
        from_cloud_event(DataclassOrder, cloud_event(DataclassOrder, data_of(), 4))


@pytest.mark.parametrize("version", [0, -1, "x", "", True, "1.5"])
def test_what_is_not_a_version_is_rejected(version: Any) -> None:
    """A version is a positive integer."""
    with pytest.raises(Rejected, match=r"^dataversion: must be a positive integer, not "):
        from_cloud_event(DataclassOrder, cloud_event(DataclassOrder, data_of(), version))


@dataclass
class Upcast:
    """A class with the upcaster of the test below."""

    order_id: int


@pytest.mark.parametrize(
    ("returned", "error"),
    [
        (MappingProxyType({"order_id": 7}), None),
        ({"order_id": "7"}, "data.order_id: must be an integer, not text"),
        (None, "data: must be an object, not null"),
    ],
)
def test_data_of_an_upcaster_are_validated(returned: Any, error: str | None) -> None:
    """It returns any mapping; a forgotten `return` is an error."""
    declared = EventType(Upcast, "order.upcast", "/shop", version=2)
    declared.add_upcaster(1, lambda data: returned)
    event = CloudEvent("order.upcast", "/shop", {})
    if error is None:
        assert declared.decode(event) == Upcast(7)
    else:
        with pytest.raises(Rejected, match=f"^{error}"):
            declared.decode(event)


def test_an_upcaster_that_fails_rejects_the_event() -> None:
    """Its error, with the traceback that the relay logs, is the cause."""
    with pytest.raises(Rejected, match=r"^data: can't be read as version 2: KeyError") as rejected:
        from_cloud_event(DataclassOrder, cloud_event(DataclassOrder, {}, 1))
    assert isinstance(rejected.value.unforeseen, KeyError)


@dataclass
class Delayed:
    """A class with the upcaster of the test below."""

    order_id: int


@pytest.mark.parametrize("database", ANY, indirect=True)
@pytest.mark.parametrize(
    "error",
    [
        TransientError("the catalogue is unavailable"),
        Retry("the order is being counted", after=60),
        OperationalError("the connection was closed"),
        InterfaceError("the connection is closed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_an_upcaster_that_may_pass_is_retried(
    local: str, join: Join, error: Exception
) -> None:
    """As if the handler had raised it: the data are not the cause."""

    def upcast(data: dict[str, Any]) -> dict[str, Any]:
        raise error

    typed_event("order.delayed", source="/shop", version=2)(Delayed)
    upcasts(Delayed, from_version=1)(upcast)
    event_registry.register(Delayed, name="handler")(lambda event: None)
    try:
        row = publisher.publish_event("order.delayed", "/shop", {"order_id": 7})
        drain(join())
        with pytest.raises(type(error)) as raised:
            from_cloud_event(Delayed, CloudEvent("order.delayed", "/shop", {}))
    finally:
        event_types.remove(Delayed)
    assert raised.value is error
    found = OutboxEvent.objects.get(pk=row.pk)
    assert (found.status, found.retry_count) == ("retry", 1)
    assert str(error) in found.last_error


def test_a_cloud_event_of_another_type_is_refused() -> None:
    """This is a mistake of the calling code, not of the event."""
    event = to_cloud_event(order(DataclassOrder))
    with pytest.raises(ValueError, match=r"^event_type: must be 'order.pydantic'"):
        from_cloud_event(PydanticOrder, event)


# --- Registration --------------------------------------------------------------------------------


@pytest.fixture
def registry() -> EventHandlerRegistry:
    """An empty registry."""
    return EventHandlerRegistry()


def test_a_function_of_several_classes_is_registered_by_calls(
    registry: EventHandlerRegistry,
) -> None:
    """It runs once for an event, with the class of its type."""
    found: list[Any] = []

    def handle(event: DataclassOrder | PydanticOrder) -> None:
        found.append(event)

    registry.register(DataclassOrder)(handle)
    registry.register(PydanticOrder)(handle)
    for kind in (DataclassOrder, PydanticOrder):
        assert registry.handle_event(to_cloud_event(order(kind)))
    assert found == [order(DataclassOrder), order(PydanticOrder)]


def one(event: Any) -> None:
    """Do nothing with one argument."""


def three(event: Any, cloud_event: Any, further: Any) -> None:
    """Do nothing with three arguments."""


@pytest.mark.parametrize(
    ("register", "error", "message"),
    [
        (lambda r: r.register(int), TypeError, "int must be declared as an event"),
        (lambda r: r.register(DataclassOrder)(three), TypeError, "needs 3 arguments"),
        (
            lambda r: r.register("order.*")(r.register(DataclassOrder)(one)),
            ValueError,
            "event_type: must be a class in all registrations",
        ),
    ],
)
def test_wrong_registrations_are_refused(
    registry: EventHandlerRegistry,
    register: Callable[[EventHandlerRegistry], object],
    error: type[Exception],
    message: str,
) -> None:
    """They would fail for each event."""
    with pytest.raises(error, match=message):
        register(registry)
