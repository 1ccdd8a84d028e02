"""Runs the handlers of `event_registry` inside the relay: no broker is needed.

Each handler runs once per event, in a transaction of its own, also when another handler of the
event fails and the event is tried again: the inbox remembers who has had it.
"""

from __future__ import annotations

from .base import Message, PublisherBackend, Shown
from .unhandled import tell_unhandled


class LocalBackend(PublisherBackend):
    """The embedded default. A handler that raises makes the event wait for its next attempt."""

    def publish(self, message: Message) -> None:
        """Run the event's handlers; raises TransientError, or Rejected if a handler said so."""
        # Its handlers are consumers, and models can't be imported before `django.setup()`.
        from django_broadcaster.inbox import dispatch

        if not dispatch(message.event):
            tell_unhandled(message.type)

    def show(self, message: Message) -> Shown:
        """Return the event that the handlers are given, and which they are."""
        from django_broadcaster.registry import event_registry

        handlers = [handler.name for handler in event_registry.handlers_for(message.type)]
        return Shown({"handlers": ", ".join(handlers) or "(none)"}, {}, message.to_json())
