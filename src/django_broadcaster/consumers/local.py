"""Runs the handlers of `event_registry` inside the relay: no broker is needed.

Each handler runs once per event, in a transaction of its own, also when another handler of the
event fails and the event is tried again: the inbox remembers who has had it.
"""

from __future__ import annotations

from typing import Any

from django_broadcaster.backends.base import Message, MessageBackend, Shown
from django_broadcaster.backends.unhandled import tell_unhandled
from django_broadcaster.exceptions import TransientError


class LocalBackend(MessageBackend):
    """Runs the handlers of each event inside the relay. If a handler raises, the event is retried.

    Args:
        requires_handler: Whether an event without a handler fails. Otherwise it counts as
            delivered.
    """

    runs_handlers = True

    def __init__(self, *, requires_handler: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._requires_handler = self.read.flag("requires_handler", requires_handler)

    def send(self, message: Message) -> None:
        """Run the event's handlers; raises TransientError, or Rejected if a handler said so."""
        # Its handlers are consumers, and models can't be imported before `django.setup()`.
        from django_broadcaster.inbox import dispatch

        if not dispatch(message.event):
            if self._requires_handler:
                raise TransientError(
                    f"no handler of {message.event_type!r} is registered in the relay's process; "
                    "import the module with the handler in AppConfig.ready(), or name it "
                    "event_handlers.py"
                )
            tell_unhandled(message.event_type)

    def show(self, message: Message) -> Shown:
        """Return the event that the handlers are given, and which they are."""
        from django_broadcaster.registry import event_registry

        handlers = [handler.name for handler in event_registry.handlers_for(message.event_type)]
        return Shown({"handlers": ", ".join(handlers) or "(none)"}, {}, message.to_json())
