"""A broker in memory, for tests of the receiver: a log of messages, and what is acknowledged."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from django_broadcaster.consumers import Consumer, Delivery, ReceivedMessage
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import BackendUnavailable


class MemoryBroker:
    """One queue, which keeps its order. `script` may hold errors, by the name of a method."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.messages: list[ReceivedMessage] = []
        self.acknowledged: set[int] = set()
        self.rejected: list[int] = []
        self.most_in_hand = 0
        self.opened = self.extended = 0
        self.most_extended = 0
        self.script: dict[str, list[Exception]] = {}
        self.owner: MemoryConsumer | None = None

    def put(self, *bodies: bytes, **attributes: Any) -> None:
        """Append messages."""
        with self.changed:
            for body in bodies:
                position = str(len(self.messages))
                message = ReceivedMessage(
                    body=body, origin="memory", position=position, **attributes
                )
                self.messages.append(message)
            self.changed.notify_all()

    def put_events(self, *events: CloudEvent) -> None:
        """Append events in structured mode."""
        self.put(*(event.to_json() for event in events))

    def fail(self, method: str, *errors: Exception) -> None:
        """Let the next calls of a method fail."""
        self.script.setdefault(method, []).extend(errors)

    @property
    def waiting(self) -> list[int]:
        """The numbers of the messages that are not acknowledged."""
        return [n for n in range(len(self.messages)) if n not in self.acknowledged]


broker = MemoryBroker()
"""The broker of the test that runs now."""


class MemoryConsumer(Consumer):
    """Reads `broker`. A consumer that opens takes over what the one before had in hand."""

    redelivery_seconds: float | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._in_hand: list[int] = []

    def open(self) -> None:
        self._step("open")
        broker.opened += 1
        broker.owner = self
        self._in_hand = []

    def close(self) -> None:
        if broker.owner is self:
            broker.owner = None

    def receive(self, limit: int, seconds: float) -> list[Delivery]:
        self._step("receive")
        with broker.changed:
            broker.changed.wait_for(self._next, timeout=seconds)
            numbers = self._next()[:limit]
        self._in_hand += numbers
        broker.most_in_hand = max(broker.most_in_hand, len(self._in_hand))
        return [self.delivery(broker.messages[number], number) for number in numbers]

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        self._step("acknowledge")
        broker.acknowledged.update(each.receipt for each in deliveries)
        self._in_hand = [n for n in self._in_hand if n not in broker.acknowledged]

    def reject(self, delivery: Delivery) -> None:
        broker.rejected.append(delivery.receipt)
        self.acknowledge([delivery])

    def extend(self, deliveries: Sequence[Delivery]) -> None:
        broker.extended += 1
        broker.most_extended = max(broker.most_extended, len(deliveries))

    def event_of(self, message: ReceivedMessage) -> CloudEvent:
        return CloudEvent.from_json(message.body)

    def lag(self) -> int:
        return len(self._next())

    def _next(self) -> list[int]:
        return [number for number in broker.waiting if number not in self._in_hand]

    def _step(self, method: str) -> None:
        errors = broker.script.get(method)
        if errors:
            raise errors.pop(0)
        if broker.owner is not self and method in ("receive", "acknowledge"):
            raise BackendUnavailable("another consumer has taken over")
