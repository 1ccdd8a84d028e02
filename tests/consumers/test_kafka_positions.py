"""Offsets of Kafka in the database: a crash re-reads nothing, and a rebalance doubles nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
from django.db import OperationalError

from django_broadcaster.consumers import Delivery, KafkaConsumer
from django_broadcaster.exceptions import BackendConfigurationError, BackendUnavailable, LeaseLost
from django_broadcaster.models import OutboxEvent, OutboxPosition, OutboxReceiver
from django_broadcaster.receiving.receiver import Receiver
from django_broadcaster.relay.outage import DatabaseOutage
from tests.support.kafka_events import first_of_each, numbered, publish
from tests.support.kafka_server import committed_offsets, make_topic, shared_servers
from tests.support.waiting import wait_until

SECONDS = 30.0

MakeReceiver = Callable[[], Receiver]


class UncommittedConsumer(KafkaConsumer):
    """Ends like a receiver that is killed before it acknowledges: nothing is committed at Kafka."""

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        raise BackendUnavailable("the receiver was killed")


@pytest.fixture
def servers() -> str:
    """The address of the shared broker."""
    return shared_servers()


@pytest.fixture
def topic(servers: str) -> str:
    """A topic of four partitions."""
    return make_topic(servers, 4)


@pytest.fixture(autouse=True)
def configured(settings: Any, servers: str, topic: str) -> None:
    """A consumer of the topic that keeps its offsets in the database."""
    handlers = {"BACKEND": "django_broadcaster.backends.LocalBackend"}
    settings.OUTBOX_PUBLISHERS = {"handlers": handlers}
    configure(
        settings, bootstrap_servers=servers, topics=topic, group=topic, offsets="database",
        session_timeout=2.0, timeout=4.0,
    )  # fmt: skip


def configure(settings: Any, consumer: type[KafkaConsumer] = KafkaConsumer, **options: Any) -> None:
    """Change the class and options of the consumer."""
    before = getattr(settings, "OUTBOX_CONSUMERS", {}).get("orders", {}).get("OPTIONS", {})
    path = f"{consumer.__module__}.{consumer.__qualname__}"
    settings.OUTBOX_CONSUMERS = {"orders": {"CONSUMER": path, "OPTIONS": {**before, **options}}}


@pytest.fixture
def make(database: str) -> Iterator[MakeReceiver]:
    """Make receivers, which are closed at the end."""
    with ExitStack() as made:

        def make() -> Receiver:
            outage = DatabaseOutage(database)
            receiver = Receiver(database, "orders", limit=1000, outage=outage)
            made.callback(receiver.end)
            made.callback(receiver.leave)
            made.callback(receiver.close)
            return receiver

        yield make


def names(database: str) -> list[str]:
    """Return the ids of the rows, in their order."""
    rows = OutboxEvent.objects.using(database).order_by("id")
    return list(rows.values_list("event_id", flat=True))


def turn_until(condition: Callable[[], bool], *receivers: Receiver) -> None:
    """Let receivers take turns until the condition is met."""

    def is_met() -> bool:
        for each in receivers:
            each.turn()
        return condition()

    wait_until(is_met, SECONDS, "the condition is met")


def kill_before_acknowledging(receiver: Receiver) -> None:
    """Let a receiver of `UncommittedConsumer` take turns until it has written everything it got."""

    def is_killed() -> bool:
        try:
            receiver.turn()
        except BackendUnavailable as error:
            return "killed" in str(error)
        return False

    wait_until(is_killed, SECONDS, "the receiver is killed")
    receiver.close()
    receiver.leave()


@pytest.mark.parametrize("offsets", ["broker", "database"])
def test_crash_before_the_acknowledgement_repeats_nothing_with_offsets_in_the_database(
    database: str, make: MakeReceiver, settings: Any, servers: str, topic: str, offsets: str
) -> None:
    """Even after the rows are gone. With offsets at the broker, records are received again."""
    publish(servers, topic, numbered(1, 0, 5))
    configure(settings, UncommittedConsumer, offsets=offsets)
    kill_before_acknowledging(make())
    before = names(database)
    assert before == numbered(1, 0, 5)
    assert not any(committed_offsets(servers, topic, topic).values())
    OutboxEvent.objects.using(database).all().delete()
    configure(settings, KafkaConsumer)
    publish(servers, topic, numbered(1, 5, 8))
    turn_until(lambda: "k0-7" in names(database), make())
    again = before if offsets == "broker" else []
    assert names(database) == [*again, *numbered(1, 5, 8)]


def test_offsets_are_at_the_broker_as_well(
    database: str, make: MakeReceiver, servers: str, topic: str
) -> None:
    """Tools that read the lag there, and the lag itself, are right."""
    publish(servers, topic, numbered(20, 0, 5))
    receiver = make()
    turn_until(lambda: len(names(database)) == 100 and receiver.consumer.lag() == 0, receiver)
    committed = committed_offsets(servers, topic, topic)
    rows = OutboxPosition.objects.using(database).order_by("source")
    stored = {int(row.source.rpartition("/")[2]): row.position for row in rows}
    assert {number: end for number, end in committed.items() if end} == {
        number: end for number, end in stored.items() if end
    }
    assert {row.source.rpartition("/")[0] for row in rows} == {f"{topic}/{topic}"}


def test_option_is_turned_on_and_off_without_a_gap_or_a_repetition(
    database: str, make: MakeReceiver, settings: Any, servers: str, topic: str
) -> None:
    """Without a position in the database, the group goes on where Kafka says; and so without it."""
    expected: list[str] = []
    for step, offsets in enumerate(["broker", "database", "broker"]):
        configure(settings, offsets=offsets)
        batch = numbered(20, step * 5, step * 5 + 5)
        publish(servers, topic, batch)
        expected += batch
        receiver = make()
        turn_until(
            lambda: len(names(database)) >= len(expected) and receiver.consumer.lag() == 0,  # noqa: B023  # called within the turn
            receiver,
        )
        row = OutboxReceiver.objects.using(database).get()
        assert (row.received, row.duplicates) == (100, 0)
        receiver.close()
        receiver.leave()
    assert first_of_each(names(database)) == first_of_each(expected)


def receive_all(receiver: Receiver, count: int) -> list[Delivery]:
    """Receive that many messages, and write none of them."""
    found: list[Delivery] = []

    def has_all() -> bool:
        found.extend(receiver.consumer.receive(1000, 0.1))
        return len(found) >= count

    wait_until(has_all, SECONDS, f"{count} messages")
    return found


def kafka(receiver: Receiver) -> KafkaConsumer:
    """Return the consumer of a receiver."""
    assert isinstance(receiver.consumer, KafkaConsumer)
    return receiver.consumer


def test_partition_that_moves_before_its_records_are_written_is_written_by_the_next_receiver(
    database: str, make: MakeReceiver, servers: str, topic: str
) -> None:
    """The former receiver writes the records of the partitions that it kept, and no others."""
    published = numbered(20, 0, 10)
    publish(servers, topic, published)
    one, other = make(), make()
    assert one._begin()
    held = receive_all(one, 200)
    assert other._begin()

    def is_shared() -> bool:
        one.consumer.extend(held)
        one.consumer.receive(1, 0.1)
        return bool(kafka(other)._partitions) or bool(other.turn())

    wait_until(is_shared, SECONDS, "the other has a partition")
    moved = {number for _, number in kafka(other)._partitions}
    assert moved
    batch = one._runner.run(one._insert, held)
    kept = [each for each in held if each.receipt.partition.number not in moved]
    assert (batch.written.received, batch.written.duplicates) == (len(kept), 0)
    assert batch.deliveries == kept  # no others are acknowledged
    one.consumer.acknowledge(batch.deliveries)
    turn_until(lambda: len(names(database)) >= 200, one, other)
    assert first_of_each(names(database)) == first_of_each(published)
    receivers = OutboxReceiver.objects.using(database)
    assert sum(each.duplicates for each in receivers.all()) == 0


def test_receiver_whose_partition_was_taken_without_its_knowledge_joins_again(
    database: str, make: MakeReceiver, servers: str, topic: str
) -> None:
    """Nothing of its batch is written; it takes the partitions once more and goes on."""
    publish(servers, topic, numbered(20, 0, 5))
    receiver = make()
    assert receiver._begin()
    held = receive_all(receiver, 100)
    sources = {each.receipt.partition.source.name for each in held}
    receiver._runner.run(receiver._positions.take, sources, lambda: None)
    with pytest.raises(LeaseLost, match="other receivers took"):
        receiver._runner.run(receiver._insert, held)
    assert names(database) == []
    receiver.close()
    turn_until(lambda: len(names(database)) == 100, receiver)
    assert first_of_each(names(database)) == first_of_each(numbered(20, 0, 5))


def test_database_that_fails_while_partitions_are_assigned_is_no_outage_of_the_broker(
    database: str, make: MakeReceiver, monkeypatch: pytest.MonkeyPatch, servers: str, topic: str
) -> None:
    """The error is the database's, nothing is read meanwhile, and the next attempt succeeds."""
    publish(servers, topic, numbered(4, 0, 5))
    receiver = make()

    def fail(*_: object) -> None:
        raise OperationalError("the server closed the connection")

    with monkeypatch.context() as patched:
        patched.setattr(receiver._positions, "take", fail)
        with pytest.raises(OperationalError, match="closed the connection"):
            receiver.turn()
    assert names(database) == []
    receiver.close()
    turn_until(lambda: len(names(database)) == 20, receiver)


def test_partitions_that_were_not_taken_are_an_error_while_others_have_records(
    database: str, make: MakeReceiver, servers: str, topic: str
) -> None:
    """A rebalance met an error of the database: those partitions would be read by no receiver."""
    publish(servers, topic, numbered(4, 0, 5))
    receiver = make()
    assert receiver._begin()
    consumer = kafka(receiver)
    received: list[Delivery] = []

    def has_some() -> bool:
        received.extend(consumer.receive(1, 0.1))
        return bool(received)

    wait_until(has_some, SECONDS, "a record; more of them are waiting")
    consumer._not_taken = OperationalError("deadlock detected")
    with pytest.raises(OperationalError, match="deadlock"):
        consumer.receive(10, 0.1)


def test_offsets_in_the_database_need_a_receiver(servers: str, topic: str) -> None:
    """A consumer that is used by itself has no database: the error names the option."""
    consumer = KafkaConsumer(
        alias="orders", bootstrap_servers=servers, topics=topic, group=topic, offsets="database"
    )
    with pytest.raises(BackendConfigurationError, match=r"\['offsets'\]: 'database' needs"):
        consumer.open()
