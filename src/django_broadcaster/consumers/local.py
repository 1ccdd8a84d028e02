"""A backend without a broker: the relay runs the handlers of `event_registry`.

Each handler runs in a transaction of its own. If a handler fails, the event is retried. The inbox
records which handlers have processed the event, so the others don't run again.
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
        """Run the event's handlers.

        Raises:
            TransientError: A handler failed, or there is none and `requires_handler` is True.
            Rejected: All failed handlers raised Rejected.
        """
        # The inbox imports models, which can't be imported before `django.setup()`.
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
        """Return the event and the names of its handlers."""
        from django_broadcaster.registry import event_registry

        handlers = [handler.name for handler in event_registry.handlers_for(message.event_type)]
        return Shown({"handlers": ", ".join(handlers) or "(none)"}, {}, message.to_json())
