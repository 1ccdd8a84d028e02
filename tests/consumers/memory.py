"""A broker in memory with one queue, and the consumer of it, for tests of the contracts."""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from django_broadcaster.backends.bindings import KAFKA
from django_broadcaster.consumers import Consumer, Delivery, ReceivedMessage
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import BackendUnavailable
from django_broadcaster.testing import ProducedMessage

BINDING = KAFKA


@dataclass
class Broker:
    """Messages by their offset. `taken` has those that a consumer holds, and which one does."""

    log: list[ProducedMessage] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    taken: dict[int, object] = field(default_factory=dict)
    problem: str = ""

    def produce(self, messages: Sequence[ProducedMessage]) -> None:
        """Store messages."""
        for message in messages:
            self.waiting.append(len(self.log))
            self.log.append(message)

    def check(self) -> None:
        """Raise what every method of a client raises while the broker is away."""
        if self.problem:
            raise BackendUnavailable(self.problem)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Be away for the time of the block; nothing is taken afterwards."""
        self.problem = "stopped"
        self.release(self.taken)
        yield
        self.problem = ""

    def release(self, offsets: Iterable[int]) -> None:
        """Make what is taken wait again, in its place."""
        for offset in list(offsets):
            insort(self.waiting, offset)
            self.taken.pop(offset)

    def held_by(self, consumer: object) -> list[int]:
        """Return what a consumer holds."""
        return [offset for offset, holder in self.taken.items() if holder is consumer]


class MemoryConsumer(Consumer):
    """Keeps every promise."""

    def __init__(self, *, broker: Broker, password: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.broker = broker
        self.read.text("password", password, optional=True)
        self.is_open = False

    def open(self) -> None:
        self.broker.check()
        self.is_open = True

    def close(self) -> None:
        self.broker.release(self.broker.held_by(self))
        self.is_open = False

    def receive(self, limit: int, seconds: float) -> list[Delivery]:
        deadline = time.monotonic() + seconds
        while not (found := self.take(limit)) and time.monotonic() < deadline:
            time.sleep(0.01)
        return [self.delivery_of(offset) for offset in found]

    def take(self, limit: int) -> list[int]:
        """Take the first messages of the queue."""
        self.broker.check()
        self.release_others()
        found = self.broker.waiting[:limit]
        del self.broker.waiting[:limit]
        self.broker.taken.update(dict.fromkeys(found, self))
        return found

    def release_others(self) -> None:
        """Take over what another consumer holds: one at a time has the right to read."""
        self.broker.release(self.broker.taken.keys() - self.broker.held_by(self))

    def delivery_of(self, offset: int) -> Delivery:
        """Return a message as it is delivered."""
        produced = self.broker.log[offset]
        message = ReceivedMessage(
            body=produced.body or b"",
            headers=produced.headers,
            content_type=produced.content_type,
            key=produced.key,
            origin="queue",
            position=str(offset),
        )
        return self.delivery(message, offset)

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        self.broker.check()
        for each in deliveries:
            self.broker.taken.pop(each.receipt, None)
            if each.receipt in self.broker.waiting:
                self.broker.waiting.remove(each.receipt)

    def extend(self, deliveries: Sequence[Delivery]) -> None:
        self.broker.check()

    def event_of(self, message: ReceivedMessage) -> CloudEvent:
        headers = {**message.headers, "content-type": message.content_type}
        produced = self.broker.log[int(message.position)]
        return CloudEvent.from_kafka(headers, produced.body)

    def health_check(self) -> bool:
        return not self.broker.problem

    def lag(self) -> int:
        self.broker.check()
        return len(self.broker.waiting)
