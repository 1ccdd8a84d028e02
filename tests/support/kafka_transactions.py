"""Relays that send in transactions of Kafka: a reader, and backends that end in the middle."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Message, TopicPartition

from django_broadcaster.backends import KafkaBackend
from django_broadcaster.backends.kafka.connection import Connection
from django_broadcaster.backends.outcomes import MessageBatch
from tests.support.backends import Gate
from tests.support.kafka_server import disposable
from tests.support.waiting import wait_until

READ_SECONDS = 40.0
"""Longer than Kafka waits until it aborts a transaction that somebody has left open."""


@disposable
def committed(servers: str, topic: str) -> list[Message]:
    """Return what a reader of committed records sees in a topic, partition by partition.

    It reads to the end of each partition, and waits for transactions that are open there.
    """
    settings = {"bootstrap.servers": servers, "group.id": "reader", "enable.auto.commit": False}
    consumer = Consumer({**settings, "isolation.level": "read_committed"})
    partitions = consumer.list_topics(topic, timeout=READ_SECONDS).topics[topic].partitions
    places = [TopicPartition(topic, number, 0) for number in partitions]
    ends = {each.partition: _end(servers, each) for each in places}
    consumer.assign(places)
    found: list[Message] = []

    def is_read() -> bool:
        for message in consumer.consume(1000, 0.05):
            assert message.error() is None, message.error()
            found.append(message)
        at = {each.partition: each.offset for each in consumer.position(places)}
        return all(at[number] >= end or not end for number, end in ends.items())

    wait_until(is_read, READ_SECONDS, f"committed records of {topic} are read")
    consumer.close()
    return sorted(found, key=lambda message: (message.partition(), message.offset()))


@disposable
def _end(servers: str, place: TopicPartition) -> int:
    """Return the end of a partition, whatever is open there."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "reader",
            "isolation.level": "read_uncommitted",
        }
    )
    try:
        end: int = consumer.get_watermark_offsets(place, READ_SECONDS)[1]
        return end
    finally:
        consumer.close()


def committed_names(servers: str, topic: str) -> list[str]:
    """Return the subjects of the events that such a reader sees."""
    return [json.loads(each.value() or b"{}")["subject"] for each in committed(servers, topic)]


STEPS = (
    "before begin_transaction",
    "after begin_transaction",
    "after flush",
    "after send_offsets_to_transaction",
    "after commit_transaction",
)
"""The steps of a transaction, by the methods of the client."""

TAKING_OVER = "after take_over"


class SteppingBackend(KafkaBackend):
    """Calls `reach` at each step of a transaction, and of taking over."""

    def take_over(self, lease: int, earlier: Any) -> Any:
        """Take over; that is a step if there was somebody before."""
        positions = super().take_over(lease, earlier)
        if earlier:
            self.reach(TAKING_OVER)
        return positions

    def deliver(self, batch: MessageBatch, connection: Connection) -> None:
        """Deliver, step by step."""
        if self.is_watched(batch) and not isinstance(connection.producer, _Producer):
            connection.producer = _Producer(connection.producer, self)
        super().deliver(batch, connection)

    def is_watched(self, batch: MessageBatch) -> bool:
        """Return True if the steps of this batch are to be reached."""
        return True

    def reach(self, step: str) -> None:
        """Do something at a step."""


class DicingBackend(SteppingBackend):
    """Ends its process at any step, with that chance."""

    def __init__(self, *, chance: float, **options: Any) -> None:
        super().__init__(**options)
        self._chance = chance

    def reach(self, step: str) -> None:
        """End as by a power cut, or go on."""
        if random.random() < self._chance:
            os.kill(os.getpid(), signal.SIGKILL)


class StepBackend(SteppingBackend):
    """Ends, or waits at a gate, at a step of the transaction with the event `at`, once."""

    def __init__(self, *, at: str, step: str, folder: str, waits: bool, **options: Any) -> None:
        super().__init__(**options)
        self._at = at
        self._step = step
        self._folder = Path(folder)
        self._waits = waits

    def is_watched(self, batch: MessageBatch) -> bool:
        """Return True if the event is in the batch."""
        return any(message.subject == self._at for message in batch.messages)

    def reach(self, step: str) -> None:
        """End, or wait, if this is the step."""
        if step != self._step:
            return
        try:
            (self._folder / "reached").touch(exist_ok=False)
        except FileExistsError:
            return
        if self._waits:
            Gate(self._folder).pass_through()
        else:
            os.kill(os.getpid(), signal.SIGKILL)


class _Producer:
    """A producer that tells its backend of each call."""

    def __init__(self, producer: Any, backend: SteppingBackend) -> None:
        self._producer = producer
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._producer, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._backend.reach(f"before {name}")
            result = method(*args, **kwargs)
            self._backend.reach(f"after {name}")
            return result

        return call
