"""A backend without a broker: the relay runs the handlers of `event_registry`.

The inbox records which handlers have processed an event, in the transaction of the handler. Events
of a batch share such a transaction where that is safe. If a handler fails, only its own changes are
rolled back, and the event is retried for the handlers that have not processed it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from django_broadcaster.backends.base import Message, MessageBackend, Outcome, Shown
from django_broadcaster.backends.unhandled import tell_unhandled
from django_broadcaster.exceptions import TransientError

from .parallel import Parallel
from .received import consumer_of, handlers_of, is_malformed, redeliver

if TYPE_CHECKING:
    from .lane import Sharing


class LocalBackend(MessageBackend):
    """Runs the handlers of each event inside the relay. If a handler raises, the event is retried.

    Args:
        requires_handler: Whether an event without a handler fails. Otherwise it counts as
            delivered.
        batch_size: The most events whose handlers share a transaction. With 1, each handler has
            its own.
        concurrency: The threads in which a relay runs handlers, each with its own database
            connections. Events of one key stay in one thread, in their order.
    """

    runs_handlers = True

    def __init__(
        self,
        *,
        requires_handler: bool = False,
        batch_size: int = 100,
        concurrency: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._requires_handler = self.read.flag("requires_handler", requires_handler)
        self._batch_size = self.read.integer("batch_size", batch_size, 1)
        self._concurrency = self.read.integer("concurrency", concurrency, 1, 64)
        self._parallel = Parallel(self)
        self._sharing: Sharing | None = None

    def send(self, message: Message) -> None:
        """Run the event's handlers.

        Raises:
            TransientError: A handler failed, or there is none and `requires_handler` is True.
            Rejected: All failed handlers raised Rejected.
        """
        self._send(message)

    def _send(self, message: Message, failed: Mapping[str, Exception] | None = None) -> None:
        """Run the event's handlers, but for those that have failed at this attempt."""
        # The inbox imports models, which can't be imported before `django.setup()`.
        from django_broadcaster.inbox import dispatch

        if is_malformed(message):
            redeliver(message)
            return
        consumer = consumer_of(message)
        if not dispatch(message.event, consumer=consumer, attempt=message.attempt, failed=failed):
            if self._requires_handler:
                raise TransientError(
                    f"no handler of {message.event_type!r} is registered in the relay's process; "
                    "import the module with the handler in AppConfig.ready(), or name it "
                    "event_handlers.py"
                )
            tell_unhandled(message.event_type)

    def send_batch(self, messages: Sequence[Message]) -> list[Outcome]:
        """Run the handlers of events, in threads if there is `concurrency`.

        Raises nothing but what ends the process, such as SystemExit.
        """
        if type(self).send is not LocalBackend.send:  # a project's own
            return super().send_batch(messages)
        parts = _by_key(messages, self._parallel.most(self._concurrency))
        calls = [partial(self._handle, messages, places) for places in parts]
        outcomes: dict[int, Outcome] = {}
        for found in self._parallel.run(calls):
            outcomes.update(found)
        return [outcomes[place] for place in range(len(messages))]

    def close(self) -> None:
        """End the threads."""
        self._parallel.end()

    def show(self, message: Message) -> Shown:
        """Return the event and the names of its handlers."""
        handlers = ", ".join(handler.name for handler in handlers_of(message)) or "(none)"
        return Shown({"handlers": handlers}, {}, message.to_json())

    def _handle(self, messages: Sequence[Message], places: Sequence[int]) -> dict[int, Outcome]:
        """Run the handlers of the messages at these places, and return the outcomes by place."""
        from .lane import Lane, Sharing

        if self._sharing is None:
            self._sharing = Sharing(self._batch_size)
        chosen = [messages[place] for place in places]
        lane = Lane(chosen, self._send, self._sharing, self.on_progress)
        return dict(zip(places, lane.run(), strict=True))


def _by_key(messages: Sequence[Message], number: int) -> list[list[int]]:
    """Divide the places of messages into up to `number` parts, each key into one of them."""
    if number == 1 or len(messages) < 2:
        return [list(range(len(messages)))]
    parts: list[list[int]] = [[] for _ in range(number)]
    of_keys: dict[str, list[int]] = {}
    for place, message in enumerate(messages):
        key = message.partition_key
        part = of_keys[key] if key in of_keys else min(parts, key=len)
        if key:
            of_keys[key] = part
        part.append(place)
    return [part for part in parts if part]
