"""Handlers as 0.1.1 documents them."""

import redis
from django.conf import settings
from django_broadcaster.registry import event_registry


@event_registry.register("order.created")
@event_registry.register("order.completed")
def note(event):
    """Write down what a handler may read of an event."""
    client = redis.Redis(**settings.LIST_BACKEND["redis"])
    key = f"{settings.LIST_BACKEND['key']}-handled"
    client.rpush(key, f"{event.event_type} {event.source} {event.subject} {event.data['number']}")


@event_registry.register()
def count(event):
    """Count all events."""
    client = redis.Redis(**settings.LIST_BACKEND["redis"])
    assert event.id
    client.incr(f"{settings.LIST_BACKEND['key']}-count")
