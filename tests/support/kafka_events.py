"""Events in topics of Kafka, as the tests of the consumer write and read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from uuid import uuid4

from confluent_kafka import Producer

from django_broadcaster.consumers import Delivery
from django_broadcaster.events import CloudEvent
from tests.support.kafka_server import READ_SECONDS, disposable, produce


def publish(servers: str, topic: str, names: Sequence[str]) -> None:
    """Append events with these ids; the key is what stands before the hyphen."""
    headers = {"content-type": b"application/cloudevents+json"}
    events = [CloudEvent("order.placed", "/shop", id=name, data=name) for name in names]
    produce(
        servers,
        topic,
        [(each.id.partition("-")[0].encode(), each.to_json(), headers) for each in events],
    )


@disposable
def publish_in_transactions(servers: str, topic: str, names: Mapping[str, bool]) -> None:
    """Append an event in a transaction of its own for each name, and commit it or abort it."""
    headers = [("content-type", b"application/cloudevents+json")]
    producer = Producer({"bootstrap.servers": servers, "transactional.id": str(uuid4())})
    producer.init_transactions(READ_SECONDS)
    for name, is_committed in names.items():
        producer.begin_transaction()
        event = CloudEvent("order.placed", "/shop", id=name)
        producer.produce(topic, event.to_json(), b"key", headers=headers)
        assert producer.flush(READ_SECONDS) == 0  # it would not send what it is about to abort
        end = producer.commit_transaction if is_committed else producer.abort_transaction
        end(READ_SECONDS)


@disposable
def while_transaction_is_open(
    servers: str, topic: str, names: Sequence[str], check: Callable[[], None]
) -> None:
    """Append events in a transaction, call `check`, and abort the transaction."""
    producer = Producer({"bootstrap.servers": servers, "transactional.id": str(uuid4())})
    producer.init_transactions(READ_SECONDS)
    producer.begin_transaction()
    for name in names:
        producer.produce(topic, name.encode())
    assert producer.flush(READ_SECONDS) == 0
    try:
        check()
    finally:
        producer.abort_transaction(READ_SECONDS)


def numbered(keys: int, start: int, stop: int) -> list[str]:
    """Return names of events that take turns at keys."""
    return [f"k{key}-{number}" for number in range(start, stop) for key in range(keys)]


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    """The ids of the events."""
    return [each.event.id for each in deliveries if each.event is not None]


def first_of_each(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the first arrivals of each key, in order."""
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        found.setdefault(name.partition("-")[0], []).append(name)
    return found
