"""The lag of a group of Kafka: the number that Kafka's own tools report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from django_broadcaster.consumers import Delivery, KafkaConsumer
from tests.support.kafka_events import (
    ids,
    numbered,
    publish,
    publish_in_transactions,
    while_transaction_is_open,
)
from tests.support.kafka_server import make_topic, records, reported_lag, shared_servers
from tests.support.waiting import wait_until

SECONDS = 60.0

COMPACTED = {
    "cleanup.policy": "compact",
    "segment.ms": "50",
    "min.cleanable.dirty.ratio": "0.001",
    "delete.retention.ms": "50",
}
"""The options of a topic that is compacted as soon as can be."""


@pytest.fixture
def servers() -> str:
    """The address of the shared broker."""
    return shared_servers()


@pytest.fixture
def topic(request: pytest.FixtureRequest, servers: str) -> str:
    """A topic of one partition; a test may give its configuration."""
    return make_topic(servers, config=getattr(request, "param", None))


@pytest.fixture
def consumer(servers: str, topic: str) -> Iterator[KafkaConsumer]:
    """An open consumer."""
    made = KafkaConsumer(alias="shop", bootstrap_servers=servers, topics=topic, group=topic)
    with closing(made):
        made.open()
        yield made


def read(consumer: KafkaConsumer, *names: str) -> list[Delivery]:
    """Read on until the events with these ids are there."""
    found: list[Delivery] = []

    def has_all() -> bool:
        found.extend(consumer.receive(1, 0.1))
        return {*ids(found)} >= {*names}

    wait_until(has_all, SECONDS, f"{names} are received")
    return found


def test_lag_is_what_kafkas_tools_report(consumer: KafkaConsumer, servers: str, topic: str) -> None:
    """In the middle of a partition, and at its end."""
    publish(servers, topic, numbered(1, 0, 10))
    consumer.acknowledge(read(consumer, "k0-3"))
    assert consumer.lag() == reported_lag(servers, topic, {topic}) == 6
    consumer.acknowledge(read(consumer, "k0-9"))
    assert consumer.lag() == reported_lag(servers, topic, {topic}) == 0


def test_lag_counts_the_marks_of_transactions_until_the_end_is_reached(
    consumer: KafkaConsumer, servers: str, topic: str
) -> None:
    """Offsets are counted: aborted records are among them, and the marks that end transactions."""
    publish_in_transactions(servers, topic, {"k-1": True, "k-2": False, "k-3": True, "k-4": False})
    consumer.acknowledge(read(consumer, "k-1"))
    assert consumer.lag() == reported_lag(servers, topic, {topic}) == 7
    consumer.acknowledge(read(consumer, "k-3"))

    def is_zero() -> bool:
        assert consumer.receive(10, 0.1) == []
        return consumer.lag() == reported_lag(servers, topic, {topic}) == 0

    wait_until(is_zero, SECONDS, "the lag is 0")


def test_records_of_an_open_transaction_are_in_the_lag_of_kafkas_tools_alone(
    consumer: KafkaConsumer, servers: str, topic: str
) -> None:
    """A receiver can't read them yet, so that they are nothing that it is late with."""
    publish(servers, topic, ["k-1"])
    consumer.acknowledge(read(consumer, "k-1"))

    def check() -> None:
        assert (consumer.lag(), reported_lag(servers, topic, {topic})) == (0, 3)

    while_transaction_is_open(servers, topic, ["a", "b", "c"], check)


@pytest.mark.slow
@pytest.mark.parametrize("topic", [COMPACTED], ids=["compacted"], indirect=True)
def test_lag_over_a_compacted_topic_is_that_of_kafkas_tools_and_falls_to_zero(
    consumer: KafkaConsumer, servers: str, topic: str
) -> None:
    """Records that compaction has removed are counted until the receiver is past them."""
    publish(servers, topic, ["a-1"])
    consumer.acknowledge(read(consumer, "a-1"))
    consumer.close()  # it would fetch the others before they are compacted
    publish(servers, topic, ["b-1", "b-2", "b-3"])

    def is_compacted() -> bool:
        # The marks that `records` writes begin the segments that Kafka needs before it compacts.
        return [each.key() for each in records(servers, topic)] == [b"a", b"b"]

    wait_until(is_compacted, SECONDS, "the topic is compacted")
    consumer.open()
    lag = consumer.lag()
    assert lag == reported_lag(servers, topic, {topic})
    assert lag > 3
    last = read(consumer, "b-3")
    assert "b-2" not in ids(last)
    consumer.acknowledge(last)

    def is_zero() -> bool:
        consumer.acknowledge(consumer.receive(10, 0.1))
        return consumer.lag() == reported_lag(servers, topic, {topic}) == 0

    wait_until(is_zero, SECONDS, "the lag is 0")
