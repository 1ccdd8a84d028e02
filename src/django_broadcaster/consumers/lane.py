"""The events that one thread handles, in their order: in shared transactions where that is safe.

A shared transaction is tried with several events. If it fails, it was rolled back, and has had no
effect. The events before the one that failed share a transaction again, that one is handled by
itself, and the rest follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from django.db import connections, router

from django_broadcaster.backends.base import Message, Outcome, as_delivery_error
from django_broadcaster.exceptions import BackendUnavailable, Held, InvalidEvent
from django_broadcaster.idle_connections import is_in_transaction
from django_broadcaster.inbox_batch import MOST_CALLS, MOST_SECONDS, SharedTransaction, Work
from django_broadcaster.models import InboxEvent

from .received import handlers_of, is_malformed

HELD: Final = "an earlier event of its key failed in this batch"


class Sharing:
    """How many events share a transaction: fewer after a failure, more after a success."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._unsharable: set[str] = set()
        self.events = most
        """The events of the next transaction."""

    def grow(self) -> None:
        """Note that events were handled."""
        self.events = min(self._most, 2 * self.events)

    def shrink(self, events: int) -> None:
        """Let fewer events share a transaction."""
        self.events = max(1, events)

    def is_safe(self, work: Work) -> bool:
        """Return True if the handlers of an event may share a transaction."""
        return all(each.atomic and each.name not in self._unsharable for each in work.handlers)

    def exclude(self, handler: str) -> None:
        """Give a handler transactions of its own from now on: it needs them."""
        self._unsharable.add(handler)


class Lane:
    """Handles messages in their order; `run` returns one outcome for each.

    Args:
        messages: The messages.
        send: Handles one message by itself, and raises its DeliveryError. Its second argument are
            the errors of handlers, by name, that have failed already.
        sharing: The size of shared transactions, which lasts from batch to batch.
        go_on: Called before each handler.
    """

    def __init__(
        self,
        messages: Sequence[Message],
        send: Callable[[Message, Mapping[str, Exception]], None],
        sharing: Sharing,
        go_on: Callable[[], object],
    ) -> None:
        self._messages = messages
        self._send = send
        self._sharing = sharing
        self._go_on = go_on
        self._using = router.db_for_write(InboxEvent)
        self._outcomes: list[Outcome] = []
        self._failed_keys: set[str] = set()
        self._alone: dict[int, dict[str, Exception]] = {}
        """By the places of messages that share no transaction: the handlers that have failed."""
        self._works: dict[int, Work] = {}

    def run(self) -> list[Outcome]:
        """Handle the messages. Raises nothing but what ends the process, such as SystemExit."""
        if is_in_transaction(connections[self._using]):
            # The transaction of a test, whose handlers have savepoints of their own.
            self._handle_alone(range(len(self._messages)))
        while len(self._outcomes) < len(self._messages):
            works = self._sharable()
            if len(works) > 1:
                self._handle_together(works)
            else:
                self._handle_next()
        return self._outcomes

    def _sharable(self) -> list[Work]:
        """Return the next events as far as their handlers may share a transaction."""
        works: list[Work] = []
        calls, start = 0, len(self._outcomes)
        for place in range(start, min(start + self._sharing.events, len(self._messages))):
            work = self._work(place)
            if work is None:
                break
            calls += len(work.handlers)
            if calls > MOST_CALLS:
                break
            works.append(work)
        return works

    def _work(self, place: int) -> Work | None:
        """Return an event with its handlers, or None if it has to be handled by itself."""
        message = self._messages[place]
        if (
            place in self._alone
            or message.attempt > 1  # it may fail again
            or is_malformed(message)
            or message.partition_key in self._failed_keys
        ):
            return None
        work = self._works.get(place)
        if work is None:
            handlers = handlers_of(message)
            if not handlers:
                return None
            try:
                work = self._works[place] = Work(message.event, handlers)
            except InvalidEvent:  # the row was tampered with
                return None
        return work if self._sharing.is_safe(work) else None

    def _handle_together(self, works: Sequence[Work]) -> None:
        shared = SharedTransaction(works, self._using, self._go_on)
        start, done = len(self._outcomes), shared.run()
        for place in range(done):
            self._note(shared.failures.get(place))
        if done:
            if done < len(works):
                self._sharing.shrink(done)
            elif 2 * shared.seconds < MOST_SECONDS:
                self._sharing.grow()
            return
        self._sharing.shrink(len(works) // 2)
        if shared.unsharable is not None:
            self._sharing.exclude(shared.unsharable.name)
        if shared.culprit is None:
            self._handle_alone(range(start, start + len(works)))
        else:
            failed = [shared.error] if shared.error else []
            self._alone[start + shared.culprit] = {handler.name: e for handler, e in failed}

    def _handle_alone(self, places: Iterable[int]) -> None:
        self._alone |= {place: {} for place in places}

    def _handle_next(self) -> None:
        place = len(self._outcomes)
        message = self._messages[place]
        if message.partition_key in self._failed_keys:
            self._outcomes.append(Held(HELD))
            return
        self._go_on()
        try:
            self._send(message, self._alone.get(place, {}))
        except BackendUnavailable as error:
            self._outcomes += [error] * (len(self._messages) - place)
        except Exception as error:
            self._note(as_delivery_error(error))
        else:
            self._note(None)
            self._sharing.grow()

    def _note(self, outcome: Outcome) -> None:
        """Add the outcome of the next message."""
        place = len(self._outcomes)
        self._works.pop(place, None)
        message = self._messages[place]
        if outcome is not None and message.partition_key:
            self._failed_keys.add(message.partition_key)
        self._outcomes.append(outcome)
