"""A broker in memory with one queue, and the consumer of it, for tests of the contracts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
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
    """Messages by their offset. `taken` are those that a consumer holds."""

    log: list[ProducedMessage] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    taken: set[int] = field(default_factory=set)
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
        """Be away for the time of the block: a broker that starts holds nothing as taken."""
        self.problem = "stopped"
        self.release()
        yield
        self.problem = ""

    def release(self) -> None:
        """Make what is taken wait again, in its place."""
        self.waiting = sorted({*self.waiting, *self.taken})
        self.taken.clear()


class MemoryConsumer(Consumer):
    """Keeps every promise."""

    def __init__(self, *, broker: Broker, password: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.broker = broker
        self.read.text("password", password, optional=True)
        self.is_open = False

    def open(self) -> None:
        self.broker.check()
        self.broker.release()
        self.is_open = True

    def close(self) -> None:
        if self.is_open:
            self.broker.release()
        self.is_open = False

    def receive(self, limit: int, seconds: float) -> list[Delivery]:
        deadline = time.monotonic() + seconds
        while not (found := self.take(limit)) and time.monotonic() < deadline:
            time.sleep(0.01)
        return [self.delivery_of(offset) for offset in found]

    def take(self, limit: int) -> list[int]:
        """Take the first messages of the queue."""
        self.broker.check()
        found = self.broker.waiting[:limit]
        del self.broker.waiting[:limit]
        self.broker.taken.update(found)
        return found

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
        self.broker.taken.difference_update(each.receipt for each in deliveries)

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
