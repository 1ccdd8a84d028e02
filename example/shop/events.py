"""The shop's events: one for each step of an order, all with the order's key.

Events of one key are delivered in publish order; other orders do not wait for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from django_broadcaster.typed_events import typed_event

SOURCE = "/shop/orders"


@dataclass(frozen=True)
class OrderEvent:
    """A step of an order."""

    order: int
    product: int
    quantity: int
    total: Decimal
    sequence: int


def key_of(event: OrderEvent) -> str:
    """Return the partition key, which is `Order.key`."""
    return f"order-{event.order}"


@typed_event("order.placed", source=SOURCE, subject="order", key=key_of)
@dataclass(frozen=True)
class OrderPlaced(OrderEvent):
    """A customer placed an order.

    The total is that of all items. It never changes later.
    """


@typed_event("order.paid", source=SOURCE, subject="order", key=key_of)
@dataclass(frozen=True)
class OrderPaid(OrderEvent):
    """A placed order was paid."""


@typed_event("order.shipped", source=SOURCE, subject="order", key=key_of)
@dataclass(frozen=True)
class OrderShipped(OrderEvent):
    """A paid order left the warehouse."""


EVENTS: dict[str, type[OrderEvent]] = {
    "placed": OrderPlaced,
    "paid": OrderPaid,
    "shipped": OrderShipped,
}
"""The event of each status of an order."""
