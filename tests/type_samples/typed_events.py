"""A project's typed events as dataclasses and TypedDict; nothing here is run.

`tests/test_typing.py` runs the type checkers on it, also without the stubs of Django.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict, assert_type

from django_broadcaster.events import CloudEvent
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.registry import event_registry
from django_broadcaster.typed_events import (
    event_types,
    from_cloud_event,
    to_cloud_event,
    typed_event,
    upcasts,
)


@typed_event("order.placed", source="/shop", key="order_id", subject=lambda event: event.note)
@dataclass(frozen=True)
class OrderPlaced:
    """An event as a dataclass."""

    order_id: int
    note: str = ""


@typed_event("order.paid", source="/shop", version=2)
class OrderPaid(TypedDict):
    """An event as a dictionary."""

    order_id: int
    note: NotRequired[str]


@upcasts(OrderPaid, from_version=1)
def add_note(data: dict[str, Any]) -> Mapping[str, Any]:
    """An upcaster stays the function that it is."""
    return {**data, "note": ""}


def publishes() -> None:
    """The decorator returns the class, and `publish` takes its events."""
    placed = OrderPlaced(order_id=7)
    assert_type(placed, OrderPlaced)
    assert_type(placed.order_id, int)
    assert_type(publisher.publish(placed), OutboxEvent)
    assert_type(publisher.publish(placed, subject="7", backend="default"), OutboxEvent)
    assert_type(publisher.publish(OrderPaid, {"order_id": 7}), OutboxEvent)
    paid: OrderPaid = {"order_id": 7}
    assert_type(publisher.publish(OrderPaid, paid, partition_key="7"), OutboxEvent)
    assert_type(publisher.publish_events([placed, to_cloud_event(OrderPaid, paid)]), int)


async def publishes_awaiting() -> None:
    """The awaitable form has the same arguments."""
    assert_type(await publisher.apublish(OrderPlaced(7), subject="7"), OutboxEvent)
    assert_type(await publisher.apublish(OrderPaid, {"order_id": 7}), OutboxEvent)


@event_registry.register(OrderPlaced)
def handles(event: OrderPlaced) -> None:
    """A handler gets an event of the class."""


@event_registry.register(OrderPlaced, name="notes", max_retries=3)
def handles_with_cloud_event(event: OrderPlaced, cloud_event: CloudEvent) -> str:
    """A handler may take the CloudEvent, too."""
    return event.note + cloud_event.id


@event_registry.register(OrderPaid)
async def handles_awaiting(event: OrderPaid) -> None:
    """A handler may be async."""
    assert_type(event["order_id"], int)


def handles_both(event: OrderPlaced | OrderPaid) -> None:
    """A handler of several classes is registered by calls."""


event_registry.register(OrderPlaced)(handles_both)
event_registry.register(OrderPaid)(handles_both)


def reads(event: CloudEvent) -> None:
    """What a CloudEvent has, and what is declared."""
    assert_type(from_cloud_event(OrderPlaced, event), OrderPlaced)
    assert_type(from_cloud_event(OrderPaid, event)["order_id"], int)
    assert_type([each.version for each in event_types], list[int])
    handles(OrderPlaced(7))
    assert_type(handles_with_cloud_event(OrderPlaced(7), event), str)
