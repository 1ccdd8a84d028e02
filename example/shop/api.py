"""The JSON endpoint.

    POST /api/orders/        {"product": 1, "quantity": 2}   -> 201, the order
    GET  /api/orders/<id>/                                   -> 200, the order

An order is {"id", "product", "quantity", "total", "status", "events", "invoices"}. The events are
those in the outbox: [{"id", "type", "status"}]. The invoices are the numbers of those that billing
has sent. Errors are {"error": "..."} with status 400, 404 or 415.
"""

from __future__ import annotations

import json
from typing import Any

from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from django_broadcaster.models import OutboxEvent

from .models import Order, Product
from .services import place_order

MOST = 1000


class BadOrder(ValueError):
    """The request is not a valid order; the message has the reason."""


# The view uses no cookie, and a browser does not let another site's page send application/json
# without permission. So a forged request is not possible.
@csrf_exempt
@require_POST
def orders(request: HttpRequest) -> JsonResponse:
    """Place an order."""
    if request.content_type != "application/json":
        return JsonResponse({"error": "send application/json"}, status=415)
    try:
        product, quantity = _read(request.body)
    except BadOrder as error:
        return JsonResponse({"error": str(error)}, status=400)
    return JsonResponse(_as_json(place_order(product, quantity)), status=201)


@require_GET
def order(request: HttpRequest, order_id: int) -> JsonResponse:
    """Return an order and the status of its events."""
    found = Order.objects.filter(pk=order_id).first()
    if found is None:
        return JsonResponse({"error": f"order {order_id} does not exist"}, status=404)
    return JsonResponse(_as_json(found))


def _read(body: bytes) -> tuple[Product, int]:
    """Return the product and the quantity of a request; raise BadOrder."""
    try:
        wish = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadOrder(f"the body must be JSON: {error}") from error
    if not isinstance(wish, dict):
        raise BadOrder("the body must be an object with product and quantity")
    product_id, quantity = wish.get("product"), wish.get("quantity", 1)
    if type(quantity) is not int or not 1 <= quantity <= MOST:
        raise BadOrder(f"quantity must be a whole number from 1 to {MOST}, not {quantity!r}")
    return _product(product_id), quantity


def _product(product_id: object) -> Product:
    # Not isinstance(), because True is an int in Python. A key has at most 64 bits.
    if type(product_id) is int and 0 < product_id < 2**63:
        product = Product.objects.filter(pk=product_id).first()
        if product is not None:
            return product
    raise BadOrder(f"product {product_id!r} does not exist")


def _as_json(found: Order) -> dict[str, Any]:
    events = OutboxEvent.objects.filter(partition_key=found.key).order_by("id")
    return {
        "id": found.pk,
        "product": found.product_id,
        "quantity": found.quantity,
        "total": str(found.total),
        "status": found.status,
        "events": [
            {"id": event.event_id, "type": event.event_type, "status": event.status}
            for event in events
        ],
        "invoices": list(found.invoices.order_by("number").values_list("number", flat=True)),
    }
