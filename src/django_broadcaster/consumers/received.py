"""Received messages as the backends that run handlers see them, by their `publisher_config`.

A receiver sets its key `consumer`, and `received` for what else it received of a malformed message.
No publish call may set them.
"""

from __future__ import annotations

from django_broadcaster.backends.base import Message
from django_broadcaster.registry import Handler, event_registry


def consumer_of(message: Message) -> str:
    """Return the consumer that received a message; empty if it was published here."""
    return str(message.config.get("consumer", ""))


def handlers_of(message: Message) -> list[Handler]:
    """Return the handlers of a message."""
    return event_registry.handlers_for(message.event_type, consumer_of(message))


def is_malformed(message: Message) -> bool:
    """Return True if a receiver could not decode the message; its dead letter is replayed."""
    return "received" in message.config


def redeliver(message: Message) -> None:
    """Decode a malformed message again, and insert its event; raises Rejected."""
    # These import models, which can't be imported before `django.setup()`.
    from django.db import router

    from django_broadcaster.models import OutboxEvent

    from . import rows

    rows.redeliver(message, router.db_for_write(OutboxEvent))
