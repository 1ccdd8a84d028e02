"""The shop's services. Each change commits together with its event, or neither does."""

from __future__ import annotations

from django.db import transaction

from django_broadcaster.publishers import publisher

from .events import EVENTS
from .models import Order, Product


class WrongStep(Exception):
    """The order's status does not allow this step."""


@transaction.atomic
def place_order(product: Product, quantity: int = 1) -> Order:
    """Order a product and publish `order.placed`."""
    order = Order.objects.create(product=product, quantity=quantity, total=product.price * quantity)
    _publish(order)
    return order


@transaction.atomic
def pay_order(order_id: int) -> Order:
    """Pay a placed order and publish `order.paid`; raise WrongStep."""
    return _advance(order_id, Order.Status.PAID)


@transaction.atomic
def ship_order(order_id: int) -> Order:
    """Ship a paid order and publish `order.shipped`; raise WrongStep."""
    return _advance(order_id, Order.Status.SHIPPED)


def _advance(order_id: int, status: str) -> Order:
    # Without the lock, two concurrent clicks on "Pay" could both read a placed order.
    order = Order.objects.select_for_update().get(pk=order_id)
    if order.next_status != status:
        raise WrongStep(f"order {order_id} is {order.status} and cannot become {status}")
    order.status = status
    order.save(update_fields=["status"])
    _publish(order)
    return order


def _publish(order: Order) -> None:
    publisher.publish(
        EVENTS[order.status](
            order=order.pk,
            product=order.product_id,
            quantity=order.quantity,
            total=order.total,
            sequence=order.sequence,
        )
    )
