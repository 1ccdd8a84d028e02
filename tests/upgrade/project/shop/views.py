"""Views that publish as 0.1.1 documents it."""

from datetime import timedelta

from django.db import transaction
from django.http import HttpResponse
from django.utils import timezone
from django_broadcaster.events import CloudEvent
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher

from .models import Order


def place_order(request, number):
    """Write an order and its event; the query says what is special about it."""
    query = request.GET
    with transaction.atomic():
        order = Order.objects.create(number=number)
        publisher.publish_event(
            event_type="order.created",
            source="order-service",
            data={"number": order.number, "note": "é"},
            subject=f"order-{number}",
            backend=query.get("backend"),
            scheduled_at=timezone.now() + timedelta(hours=1) if "later" in query else None,
            max_retries=5,
            publisher_config={"tenant": query["tenant"]} if "tenant" in query else None,
        )
    return HttpResponse("ok")


def complete_order(request, number):
    """Publish a CloudEvent about an order."""
    with transaction.atomic():
        order = Order.objects.get(number=number)
        event = CloudEvent(
            "order.completed", "order-service", {"number": order.number, "note": "é"}, "done"
        )
        publisher.publish_cloud_event(event)
    return HttpResponse("ok")


def delete_order(request, number):
    """Write an event by the model itself."""
    with transaction.atomic():
        Order.objects.filter(number=number).delete()
        OutboxEvent.objects.create(
            event_type="order.deleted",
            source="order-service",
            data={"number": number, "note": "é"},
        )
    return HttpResponse("ok")
