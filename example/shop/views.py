"""The pages: the products, and an order with its events."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from django_broadcaster.models import OutboxEvent
from django_broadcaster.states import UNDELIVERED

from . import services
from .models import Order, Product, ReceivedEvent


@require_GET
def products(request: HttpRequest) -> HttpResponse:
    """Show the products and the latest orders."""
    latest = Order.objects.select_related("product").order_by("-id")[:8]
    context = {"products": Product.objects.order_by("name"), "orders": latest}
    return render(request, "shop/products.html", context)


@require_POST
def place(request: HttpRequest, product_id: int) -> HttpResponse:
    """Order one item of a product, then show the order."""
    placed = services.place_order(get_object_or_404(Product, pk=product_id))
    return redirect("shop:order", placed.pk)


@require_GET
def order(request: HttpRequest, order_id: int) -> HttpResponse:
    """Show an order, its next step and its events."""
    found = get_object_or_404(Order.objects.select_related("product"), pk=order_id)
    steps = [(label, found.sequence > number) for number, label in enumerate(Order.Status.labels)]
    action = {Order.Status.PLACED: "Pay", Order.Status.PAID: "Ship"}.get(Order.Status(found.status))
    context = {"order": found, "steps": steps, "action": action, **_delivery(found)}
    return render(request, "shop/order.html", context)


@require_GET
def events(request: HttpRequest, order_id: int) -> HttpResponse:
    """Return the part of the order page that is refreshed, as HTML."""
    found = get_object_or_404(Order, pk=order_id)
    return render(request, "shop/_events.html", {"order": found, **_delivery(found)})


@require_POST
def advance(request: HttpRequest, order_id: int) -> HttpResponse:
    """Pay or ship an order, depending on its status."""
    found = get_object_or_404(Order, pk=order_id)
    step = services.pay_order if found.status == Order.Status.PLACED else services.ship_order
    try:
        step(order_id)
    except services.WrongStep as error:
        messages.error(request, str(error))  # another click was faster
    return redirect("shop:order", order_id)


def _delivery(found: Order) -> dict[str, Any]:
    """Return the order's events in the outbox, and the times at which handlers received them."""
    # Only the primary key has delivered events, so this query reads the whole outbox. That is too
    # slow for a large shop.
    sent = list(OutboxEvent.objects.filter(partition_key=found.key).order_by("id"))
    is_local = settings.SHOP_BROKER == "local"
    is_new = timezone.now() - found.created_at < timedelta(minutes=1)
    awaits_invoice = not is_local and is_new and not found.invoices.exists()
    received = ReceivedEvent.objects.filter(key=found.key)
    handled = {one.event_id: one.received_at for one in received}
    return {
        "events": [(event, handled.get(event.event_id)) for event in sent],
        "on_the_way": any(event.status in UNDELIVERED for event in sent) or awaits_invoice,
        "handlers": is_local,
        "parcel": getattr(found, "parcel", None),
    }
