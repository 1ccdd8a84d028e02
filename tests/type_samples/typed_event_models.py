"""A project's typed events of pydantic and msgspec; nothing here is run."""

from __future__ import annotations

from typing import assert_type

import msgspec
import pydantic

from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.registry import event_registry
from django_broadcaster.typed_events import typed_event


@typed_event("order.packed", source="/shop", key="order_id")
class OrderPacked(pydantic.BaseModel):
    """An event as a pydantic model."""

    order_id: int


@typed_event("order.sent", source="/shop", key="order_id")
class OrderSent(msgspec.Struct, frozen=True):
    """An event as a msgspec struct."""

    order_id: int


@event_registry.register(OrderPacked)
def handles_model(event: OrderPacked) -> None:
    """A handler gets a model."""
    assert_type(event.order_id, int)


@event_registry.register(OrderSent)
def handles_struct(event: OrderSent) -> None:
    """A handler gets a struct."""
    assert_type(event.order_id, int)


def publishes() -> None:
    """Both are published like any other event."""
    assert_type(publisher.publish(OrderPacked(order_id=7)), OutboxEvent)
    assert_type(publisher.publish(OrderSent(order_id=7)), OutboxEvent)
