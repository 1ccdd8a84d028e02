"""The pages: what can be ordered, and one order with its events as they are delivered."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from django_broadcaster.models import OutboxEvent
from django_broadcaster.states import UNDELIVERED

from . import services
from .models import Order, Product, ReceivedEvent


@require_GET
def products(request: HttpRequest) -> HttpResponse:
    """Show what can be ordered, and the latest orders."""
    latest = Order.objects.select_related("product").order_by("-id")[:8]
    context = {"products": Product.objects.order_by("name"), "orders": latest}
    return render(request, "shop/products.html", context)


@require_POST
def place(request: HttpRequest, product_id: int) -> HttpResponse:
    """Order one of a product, then show the order."""
    placed = services.place_order(get_object_or_404(Product, pk=product_id))
    return redirect("shop:order", placed.pk)


@require_GET
def order(request: HttpRequest, order_id: int) -> HttpResponse:
    """Show one order: how far it has come, what can be done, and its events."""
    found = get_object_or_404(Order.objects.select_related("product"), pk=order_id)
    steps = [(label, found.sequence > number) for number, label in enumerate(Order.Status.labels)]
    action = {Order.Status.PLACED: "Pay", Order.Status.PAID: "Ship"}.get(Order.Status(found.status))
    context = {"order": found, "steps": steps, "action": action, **_delivery(found)}
    return render(request, "shop/order.html", context)


@require_GET
def events(request: HttpRequest, order_id: int) -> HttpResponse:
    """Return the part of the order page that changes by itself, as HTML."""
    found = get_object_or_404(Order, pk=order_id)
    return render(request, "shop/_events.html", {"order": found, **_delivery(found)})


@require_POST
def advance(request: HttpRequest, order_id: int) -> HttpResponse:
    """Pay or ship an order, whichever is next."""
    found = get_object_or_404(Order, pk=order_id)
    step = services.pay_order if found.status == Order.Status.PLACED else services.ship_order
    try:
        step(order_id)
    except services.WrongStep as error:
        messages.error(request, str(error))  # a second click, or somebody else's
    return redirect("shop:order", order_id)


def _delivery(found: Order) -> dict[str, Any]:
    """Return the order's events in the outbox, and what the handlers made of them."""
    # Delivered events stand in no index but the primary key, so this reads the whole outbox:
    # fine on a page of an example, too slow for a large shop.
    sent = list(OutboxEvent.objects.filter(partition_key=found.key).order_by("id"))
    received = ReceivedEvent.objects.filter(key=found.key)
    handled = {one.event_id: one.received_at for one in received}
    return {
        "events": [(event, handled.get(event.event_id)) for event in sent],
        "on_the_way": any(event.status in UNDELIVERED for event in sent),
        "handlers": settings.SHOP_BROKER == "local",
        "parcel": getattr(found, "parcel", None),
    }
