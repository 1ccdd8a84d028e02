"""Events of declared classes are published as what they declare, or refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync

from django_broadcaster.backends import locmem
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import InvalidEvent
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.typed_events import VERSION, from_cloud_event, to_cloud_event
from tests.publishers.statements import statements
from tests.support.databases import ANY
from tests.support.routing import OneDatabase

from .classes import (
    ALL_KINDS,
    DataclassOrder,
    TypedDictOrder,
    arguments,
    invalid,
    order,
)

if TYPE_CHECKING:
    from pytest_django import Settings


@pytest.fixture
def outbox(database: str, settings: Settings) -> Iterator[str]:
    """The database of the outbox."""
    settings.DATABASE_ROUTERS = [OneDatabase(database)]
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": "django_broadcaster.backends.LocMemBackend"},
        "other": {"BACKEND": "django_broadcaster.backends.LocMemBackend"},
    }
    settings.OUTBOX_ROUTES = {}
    yield database
    locmem.clear()


@ALL_KINDS
def test_an_event_has_the_attributes_that_its_class_declares(outbox: str, kind: type[Any]) -> None:
    """Type, source, key, subject and version come from the class, and the data from the event."""
    event = order(kind)
    row = publisher.publish(*arguments(event))
    found = OutboxEvent.objects.get(pk=row.pk).cloud_event
    assert (found.event_type, found.source) == (f"order.{_name(kind)}", "/shop")
    assert (found.partition_key, found.subject) == ("7", str(event_value(event, "token")))
    assert found.extensions[VERSION] == 3
    assert found.data["lines"] == [{"product": "Teapot", "price": "19.90"}]
    assert from_cloud_event(kind, found) == event


def _name(kind: type[Any]) -> str:
    return kind.__name__.removesuffix("Order").lower()


def event_value(event: Any, field: str) -> Any:
    """Return the value of a field of any kind of class."""
    return event[field] if isinstance(event, dict) else getattr(event, field)


@ALL_KINDS
def test_data_that_do_not_fit_their_class_are_refused_before_any_sql(
    outbox: str, kind: type[Any]
) -> None:
    """The error names the field, down to the item of a list."""
    with statements() as run, pytest.raises(InvalidEvent) as refused:
        publisher.publish(*arguments(invalid(kind)))
    assert refused.value.field == "data.lines[1].price"
    assert str(refused.value).startswith("data.lines[1].price: ")
    assert "cheap" not in str(refused.value)
    assert run == []


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_a_call_may_override_what_its_class_declares(outbox: str) -> None:
    """The options are those of `publish_event`."""
    row = publisher.publish(
        order(DataclassOrder),
        source="/shop/2",
        subject="s",
        partition_key="k",
        event_id="1",
        extensions={"tenant": "a", VERSION: 1},
        backend="other",
        max_retries=9,
    )
    found = OutboxEvent.objects.get(pk=row.pk)
    assert (found.source, found.subject, found.partition_key) == ("/shop/2", "s", "k")
    assert (found.event_id, found.publisher_backend, found.max_retries) == ("1", "other", 9)
    assert found.extensions == {"tenant": "a", VERSION: 3}


def test_events_of_declared_classes_are_published_in_bulk(outbox: str) -> None:
    """They may be mixed with CloudEvents and dictionaries, and take one statement."""
    events = [
        order(DataclassOrder),
        to_cloud_event(TypedDictOrder, order(TypedDictOrder)),
        {"event_type": "order.paid", "source": "/shop"},
        CloudEvent("order.sent", "/shop"),
    ]
    with statements() as run:
        assert publisher.publish_events(events) == 4
    if outbox != "sqlite":
        assert len([sql for sql in run if sql.startswith("INSERT")]) == 1
    rows = OutboxEvent.objects.order_by("id")
    assert [(row.event_type, row.partition_key) for row in rows] == [
        ("order.dataclass", "7"),
        ("order.typeddict", "7"),
        ("order.paid", ""),
        ("order.sent", ""),
    ]


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_an_invalid_event_in_bulk_has_its_index(outbox: str) -> None:
    """Nothing of the call is written."""
    with pytest.raises(InvalidEvent, match=r"^event 1: data\.lines\[1\]\.price: ") as refused:
        publisher.publish_events([order(DataclassOrder), invalid(DataclassOrder)])
    assert refused.value.index == 1
    assert not OutboxEvent.objects.exists()


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_publishing_a_class_takes_the_statements_of_publish_event(outbox: str) -> None:
    """Validation asks the database nothing; a NOTIFY is left out soon after another one."""
    with statements() as typed:
        publisher.publish(order(DataclassOrder))
    with statements() as untyped:
        publisher.publish_event("order.placed", "/shop", {"order_id": 7}, partition_key="7")
    inserts = [[sql for sql in run if "NOTIFY" not in sql] for run in (typed, untyped)]
    assert len(inserts[0]) == len(inserts[1])


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_async_code_awaits_apublish(outbox: str) -> None:
    """The awaitable form has the same arguments, result and errors."""
    row = async_to_sync(publisher.apublish)(TypedDictOrder, order(TypedDictOrder))
    assert OutboxEvent.objects.get(pk=row.pk).event_type == "order.typeddict"
    with pytest.raises(InvalidEvent):
        async_to_sync(publisher.apublish)(invalid(DataclassOrder))


class Undeclared:
    """A class that no declaration knows."""


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            (Undeclared(),),
            r"Undeclared must be declared as an event; decorate it with @",
        ),
        ((Undeclared, Undeclared()), r"Undeclared must be declared as an event"),
        ((DataclassOrder,), r"pass an event of DataclassOrder, .* not the class"),
        (({"order_id": 7},), r"a dictionary has no class; pass the declared TypedDict first"),
        ((DataclassOrder, {"order_id": 7}), r"the data of DataclassOrder must be an event of it"),
        ((TypedDictOrder, 7), r"the data of TypedDictOrder must be an event of it, not int"),
        ((order(DataclassOrder), 7), r"pass an event alone, or a declared class and its data"),
    ],
)
def test_what_is_not_an_event_of_a_declared_class_is_refused(
    wrong: tuple[Any, ...], message: str
) -> None:
    """The error says what to pass."""
    with pytest.raises(TypeError, match=message):
        to_cloud_event(*wrong)


def test_a_misspelt_key_of_a_typed_dict_is_refused() -> None:
    """A consumer would ignore it, and miss the field that was meant."""
    event = order(TypedDictOrder)
    event["note_"] = "fragile"
    with pytest.raises(InvalidEvent) as refused:
        to_cloud_event(TypedDictOrder, event)
    assert str(refused.value) == "data.note_: is not a field of TypedDictOrder"
