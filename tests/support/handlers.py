"""Handlers of the `HandlersBackend`: each event becomes an `Order`, but one ends its process."""

from __future__ import annotations

import os

from django_broadcaster.events import CloudEvent
from django_broadcaster.registry import event_registry
from tests.app.models import Order

from .backends import POISON


@event_registry.register("order.*")
def place(event: CloudEvent) -> None:
    """Write down that the event arrived."""
    subject = event.subject or ""
    if subject == POISON:
        os._exit(13)
    Order.objects.create(number=subject)
