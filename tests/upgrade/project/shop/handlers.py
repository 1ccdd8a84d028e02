"""Handlers as 0.1.1 documents them."""

from django_broadcaster.registry import event_registry


@event_registry.register("order.created")
def note(event):
    """Read what a handler of 0.1.1 may read."""
    assert event.event_type == "order.created"
    assert event.data["number"] >= 0
