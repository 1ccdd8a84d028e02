"""The JSON endpoint.

    POST /api/orders/        {"product": 1, "quantity": 2}   -> 201, the order
    GET  /api/orders/<id>/                                   -> 200, the order

An order is {"id", "product", "quantity", "total", "status", "events"}; its events are what stands
in the outbox for it: [{"id", "type", "status"}]. Errors are {"error": "..."} with status 400, 404
or 415.
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
    """The request asks for nothing that can be ordered; the message says why."""


# No cookie is looked at here, and a page of another site cannot send application/json without
# asking first, so there is nothing to forge.
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
    """Return an order and where its events stand."""
    found = Order.objects.filter(pk=order_id).first()
    if found is None:
        return JsonResponse({"error": f"there is no order {order_id}"}, status=404)
    return JsonResponse(_as_json(found))


def _read(body: bytes) -> tuple[Product, int]:
    """Return the product and the quantity that a request asks for; raises BadOrder."""
    try:
        wish = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadOrder(f"not JSON: {error}") from error
    if not isinstance(wish, dict):
        raise BadOrder("send an object: product, quantity")
    product_id, quantity = wish.get("product"), wish.get("quantity", 1)
    if type(quantity) is not int or not 1 <= quantity <= MOST:
        raise BadOrder(f"quantity must be a whole number from 1 to {MOST}")
    return _product(product_id), quantity


def _product(product_id: object) -> Product:
    # type() and not isinstance(): JSON's true is no number. A key has 64 bits at the most.
    if type(product_id) is int and 0 < product_id < 2**63:
        product = Product.objects.filter(pk=product_id).first()
        if product is not None:
            return product
    raise BadOrder(f"there is no product {product_id!r}")


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
    }
