"""The receiver: each message is written once, in order, and acknowledged only then."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.management import call_command
from django.db import OperationalError, connections, transaction
from django.test.utils import CaptureQueriesContext

from django_broadcaster.consumers import ReceivedMessage
from django_broadcaster.consumers.rows import MALFORMED_TYPE, Writer
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import BackendUnavailable, LeaseLost
from django_broadcaster.models import OutboxEvent, OutboxReceiver
from django_broadcaster.receiving.lease import ReceiverLease
from django_broadcaster.receiving.receiver_thread import ReceiverThread
from django_broadcaster.relay.outage import DatabaseOutage
from django_broadcaster.store.sql import run
from tests.publishers.threads import threads, waits_for_lock
from tests.support import memory_broker
from tests.support.memory_broker import MemoryBroker
from tests.support.waiting import wait_until

CONSUMER = "tests.support.memory_broker.MemoryConsumer"
SECONDS = 20


@pytest.fixture(autouse=True)
def configured(settings: Any) -> None:
    """One consumer of a broker in memory, for one local backend."""
    settings.OUTBOX_PUBLISHERS = {
        "handlers": {"BACKEND": "django_broadcaster.backends.LocalBackend"}
    }
    settings.OUTBOX_CONSUMERS = {"orders": {"CONSUMER": CONSUMER}}


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    """An empty broker."""
    made = MemoryBroker()
    monkeypatch.setattr(memory_broker, "broker", made)
    return made


@contextmanager
def receiving(database: str, limit: int = 10) -> Iterator[ReceiverThread]:
    """Run a receiver for the time of the block."""
    thread = ReceiverThread(database, "orders", limit=limit, outage=DatabaseOutage(database))
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()
        thread.join(20)
        assert not thread.is_alive()
        assert not thread.failure


def event(number: int, key: str = "") -> CloudEvent:
    """Return an event of another service."""
    extensions = {"partitionkey": key} if key else {}
    return CloudEvent("order.placed", "/shop", {"n": number}, id=str(number), extensions=extensions)


def ids(database: str) -> list[str]:
    """Return the ids of the rows, in their order."""
    return list(
        OutboxEvent.objects.using(database).order_by("id").values_list("event_id", flat=True)
    )


def test_rows_of_the_next_batch_are_made_while_one_is_written(
    database: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database need not wait for them, and nothing is acknowledged before it is written."""
    if connections[database].vendor == "mysql":
        pytest.skip("the database is asked for its limits while rows are made")
    made: list[int] = []
    goes_on = threading.Event()
    write, entries = Writer.write, Writer.entries

    def wait_and_write(self: Writer, *args: Any) -> Any:
        assert goes_on.wait(SECONDS)
        return write(self, *args)

    def note(self: Writer, deliveries: Any) -> Any:
        made.append(len(deliveries))
        return entries(self, deliveries)

    monkeypatch.setattr(Writer, "write", wait_and_write)
    monkeypatch.setattr(Writer, "entries", note)
    broker.put_events(*map(event, range(20)))
    with receiving(database, limit=10):
        wait_until(lambda: made == [10, 10], SECONDS, "the rows of both batches")
        assert not broker.acknowledged
        goes_on.set()
        wait_until(lambda: not broker.waiting, SECONDS, "acknowledged")
    assert ids(database) == [str(n) for n in range(20)]


def test_messages_become_rows_in_their_order_and_are_then_acknowledged(
    database: str, broker: MemoryBroker
) -> None:
    """The rows have the event, the key and the consumer, and wait for the handlers."""
    broker.put_events(*(event(n, key="k") for n in range(25)))
    with receiving(database):
        wait_until(lambda: not broker.waiting, SECONDS, "acknowledged")
    assert ids(database) == [str(n) for n in range(25)]
    row = OutboxEvent.objects.using(database).order_by("id")[0]
    assert (row.status, row.publisher_backend, row.partition_key) == ("pending", "handlers", "k")
    assert row.cloud_event.data == {"n": 0}
    assert row.publisher_config == {"consumer": "orders"}
    assert not OutboxReceiver.objects.using(database).exists()


def test_a_message_that_comes_again_is_not_doubled(database: str, broker: MemoryBroker) -> None:
    """The broker forgets an acknowledgement: the row's identity is known."""
    broker.put_events(event(1), event(2), event(1))
    broker.fail("acknowledge", BackendUnavailable("the connection was cut"))
    with receiving(database):
        wait_until(lambda: not broker.waiting, SECONDS, "acknowledged")
    assert ids(database) == ["1", "2"]
    assert broker.opened == 2


def test_malformed_messages_become_dead_letters_with_their_bytes(
    database: str, broker: MemoryBroker
) -> None:
    """They do not stop the others, and their row says what is wrong."""
    broker.put(b"\x00\xffnot JSON", headers={"trace": "a\0b"}, key="k" * 300)
    broker.put_events(event(1), CloudEvent("t", "/s", {}, id="x" * 300))
    with receiving(database):
        wait_until(lambda: not broker.waiting, SECONDS, "acknowledged")
    rows = OutboxEvent.objects.using(database).order_by("id")
    first, good, long = rows
    assert (first.status, first.event_type) == ("failed", MALFORMED_TYPE)
    assert bytes(first.data_binary or b"") == b"\x00\xffnot JSON"
    assert first.publisher_config["received"]["headers"] == {"trace": "a\\0b"}
    assert "InvalidEvent" in first.last_error
    assert first.ended_at is not None
    assert good.status == "pending"
    assert "event_id" in long.last_error
    assert long.status == "failed"


def test_a_malformed_message_that_comes_again_is_not_doubled(
    database: str, broker: MemoryBroker
) -> None:
    """Its position names it."""
    broker.put(b"{")
    broker.fail("acknowledge", BackendUnavailable("the connection was cut"))
    with receiving(database):
        wait_until(lambda: not broker.waiting, SECONDS, "acknowledged")
    assert len(ids(database)) == 1


def decode_by_identity(message: ReceivedMessage) -> CloudEvent:
    """Make an event of any bytes."""
    return CloudEvent("order.placed", "/legacy", message.body.decode(), id=message.identity)


@pytest.mark.parametrize("decode", [None, f"{__name__}.decode_by_identity"])
def test_messages_with_one_position_are_told_apart(
    database: str, broker: MemoryBroker, settings: Any, decode: str | None
) -> None:
    """A queue that was created again counts from zero: its messages are no repetitions."""
    settings.OUTBOX_CONSUMERS["orders"]["OPTIONS"] = {"decode": decode}
    for body in (b"one", b"two", b"two"):
        broker.messages.clear()
        broker.acknowledged.clear()
        broker.put(body)
        with receiving(database):
            wait_until(lambda: not broker.waiting, SECONDS, "acknowledged")
    assert len(ids(database)) == 2


def test_a_message_over_the_limit_becomes_a_dead_letter(
    database: str, broker: MemoryBroker, settings: Any
) -> None:
    """`max_message_bytes` limits what handlers are given."""
    settings.OUTBOX_CONSUMERS["orders"]["OPTIONS"] = {"max_message_bytes": 100}
    broker.put_events(CloudEvent("t", "/s", "x" * 200))
    with receiving(database):
        wait_until(lambda: not broker.waiting, SECONDS, "acknowledged")
    row = OutboxEvent.objects.using(database).get()
    assert "over max_message_bytes (100)" in row.last_error


def test_nothing_is_acknowledged_while_the_database_fails(
    database: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker is asked for more time for both batches in memory, and none more is read."""
    fails = [True]
    insert = Writer._insert

    def failing(self: Writer, *args: Any) -> Any:
        if fails:
            raise OperationalError("the server closed the connection unexpectedly")
        return insert(self, *args)

    monkeypatch.setattr(Writer, "_insert", failing)
    broker.put_events(*(event(n) for n in range(40)))
    with receiving(database):
        wait_until(lambda: broker.extended >= 3, SECONDS, "done")
        assert not broker.acknowledged
        assert broker.most_in_hand == broker.most_extended == 20
        fails.clear()
        wait_until(lambda: not broker.waiting, SECONDS, "acknowledged")
    assert ids(database) == [str(n) for n in range(40)]


def test_a_receiver_that_was_replaced_writes_nothing_more(
    database: str, broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """Its row is gone, so its batch is rolled back; it joins again and reads from the broker."""
    with receiving(database):
        wait_until(lambda: broker.opened == 1, SECONDS, "done")
        OutboxReceiver.objects.using(database).all().delete()
        broker.put_events(event(1))
        wait_until(lambda: not broker.waiting, SECONDS, "acknowledged")
    assert ids(database) == ["1"]
    assert broker.opened == 2
    assert "Lease lost" in caplog.text


def test_one_receiver_at_a_time_reads_and_the_next_takes_over(
    database: str, broker: MemoryBroker
) -> None:
    """The second stands by until the first ends."""
    receivers = OutboxReceiver.objects.using(database)
    with receiving(database):
        wait_until(lambda: broker.opened == 1, SECONDS, "done")
        with receiving(database):
            wait_until(lambda: receivers.count() == 2, SECONDS, "done")
            broker.put_events(event(1))
            wait_until(lambda: not broker.waiting, SECONDS, "acknowledged")
            assert receivers.filter(reads="orders").count() == 1
            assert broker.opened == 1
            connections[database].close()
            receivers.filter(reads="orders").delete()
            wait_until(lambda: broker.opened >= 2, SECONDS, "done")
            broker.put_events(event(2))
            wait_until(lambda: not broker.waiting, SECONDS, "acknowledged")
    assert ids(database) == ["1", "2"]


def test_drain_reads_what_a_receiver_that_crashed_has_left(
    database: str, broker: MemoryBroker, settings: Any
) -> None:
    """The drain waits until the lease of the other one would have expired."""
    settings.OUTBOX_LEASE_SECONDS = 2
    crashed = ReceiverLease(database, "orders")
    crashed.join()
    assert crashed.may_read()
    broker.put_events(event(1))
    thread = ReceiverThread(
        database, "orders", limit=10, outage=DatabaseOutage(database), drain=True
    )
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert ids(database) == ["1"]


def test_an_outage_of_the_broker_is_logged_once_and_survived(
    database: str, broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """The receiver connects again after a pause, and its state says why it can't read."""
    broker.fail("open", *[BackendUnavailable("connection refused")] * 3)
    with receiving(database) as thread, caplog.at_level(logging.WARNING):
        wait_until(lambda: broker.opened == 1, SECONDS, "done")
        broker.put_events(event(1))
        wait_until(lambda: not broker.waiting, SECONDS, "acknowledged")
        assert thread.state.error == ""
    lines = [record.message for record in caplog.records]
    assert len([line for line in lines if "can't be read: connection refused" in line]) == 1
    assert any("reads again after" in line for line in lines)


def test_a_receiver_that_catches_up_after_an_outage_is_healthy(
    database: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is gone with the first batch that is acknowledged, also while a backlog remains."""
    errors: list[str] = []
    threads: list[ReceiverThread] = []
    acknowledge = memory_broker.MemoryConsumer.acknowledge

    def noting(consumer: memory_broker.MemoryConsumer, deliveries: Any) -> None:
        acknowledge(consumer, deliveries)
        errors.append(threads[0].state.error)

    monkeypatch.setattr(memory_broker.MemoryConsumer, "acknowledge", noting)
    broker.fail("open", BackendUnavailable("connection refused"))
    broker.put_events(*(event(n) for n in range(40)))
    thread = ReceiverThread(database, "orders", limit=10, outage=DatabaseOutage(database))
    threads.append(thread)
    thread.start()
    wait_until(lambda: not broker.waiting, SECONDS, "acknowledged")
    thread.stop()
    thread.join(SECONDS)
    assert errors[0] == "connection refused"
    assert errors[1:3] == ["", ""]


_REFUSING = {
    "postgresql": (
        "CREATE FUNCTION test_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION 'value out of range' USING ERRCODE = '22003'; END $$",
        "CREATE TRIGGER test_refuse BEFORE INSERT ON django_broadcaster_outboxevent "
        "FOR EACH ROW WHEN (NEW.event_id = '2') EXECUTE FUNCTION test_refuse()",
    ),
    "mysql": (
        "CREATE TRIGGER test_refuse BEFORE INSERT ON django_broadcaster_outboxevent "
        "FOR EACH ROW IF NEW.event_id = '2' THEN SIGNAL SQLSTATE '22032' "
        "SET MYSQL_ERRNO = 3140, MESSAGE_TEXT = 'value out of range'; END IF",
    ),
    "sqlite": (
        "CREATE TRIGGER test_refuse BEFORE INSERT ON django_broadcaster_outboxevent "
        "WHEN NEW.event_id = '2' BEGIN SELECT RAISE(ABORT, 'value out of range'); END",
    ),
}
"""Triggers that refuse the event with the id 2, by vendor."""


@contextmanager
def _refusing_event_2(using: str) -> Iterator[None]:
    vendor = connections[using].vendor
    run(using, *_REFUSING[vendor])
    try:
        yield
    finally:
        if vendor == "postgresql":
            run(using, "DROP FUNCTION test_refuse CASCADE")
        else:
            run(using, "DROP TRIGGER test_refuse")


def test_a_value_that_the_database_refuses_becomes_a_dead_letter(
    database: str, broker: MemoryBroker
) -> None:
    """The other messages of its batch are written all the same."""
    broker.put_events(event(1), event(2), event(3))
    with _refusing_event_2(database), receiving(database):
        wait_until(lambda: not broker.waiting, SECONDS, "acknowledged")
    rows_by_status = OutboxEvent.objects.using(database).order_by("id")
    assert [row.status for row in rows_by_status] == ["pending", "failed", "pending"]
    assert "value out of range" in rows_by_status[1].last_error


def test_fewer_messages_are_received_at_once_if_they_are_large(
    database: str, broker: MemoryBroker, settings: Any
) -> None:
    """Two batches in hand stay near twice OUTBOX_BATCH_BYTES, and small messages are many again."""
    settings.OUTBOX_BATCH_BYTES = 100_000
    large = [CloudEvent("t", "/s", "x" * 20_000, id=f"large-{n}") for n in range(400)]
    broker.put_events(*large[:100])
    with receiving(database, limit=1000):
        wait_until(lambda: not broker.waiting, SECONDS, "the first batch shows the size")
        broker.most_in_hand = 0
        broker.put_events(*large[100:])
        wait_until(lambda: not broker.waiting, SECONDS, "acknowledged")
        assert broker.most_in_hand <= 10
        broker.put_events(*(event(n) for n in range(2000)))
        wait_until(lambda: not broker.waiting, SECONDS, "acknowledged")
        assert broker.most_in_hand > 100


def test_a_limited_number_of_iterations_ends_the_receiver(
    database: str, broker: MemoryBroker
) -> None:
    """As it ends the relay: a worker with both would never end otherwise."""
    broker.put_events(event(1))
    call_command("outbox_worker", "--max-iterations=2", "--interval=0.01", "--database", database)
    assert ids(database) == ["1"]
    assert not broker.waiting
    assert not OutboxReceiver.objects.using(database).exists()


def test_what_fails_at_the_end_is_a_warning(
    database: str,
    broker: MemoryBroker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A lease that stays, and a client that can't disconnect, are seen in the log."""

    def fail(*_: Any) -> None:
        raise OperationalError("server closed the connection")

    with receiving(database):
        wait_until(lambda: broker.opened, SECONDS, "it reads")
        monkeypatch.setattr(ReceiverLease, "leave", fail)
        monkeypatch.setattr(memory_broker.MemoryConsumer, "close", fail)
    warnings = [each.message for each in caplog.records if each.levelno == logging.WARNING]
    assert any("Could not disconnect: server closed" in each for each in warnings)
    assert any("Could not release the lease: server closed" in each for each in warnings)


def test_a_batch_takes_one_statement_on_postgresql(database: str, broker: MemoryBroker) -> None:
    """Its rows and its figures, without a transaction that stays open."""
    consumer = memory_broker.MemoryConsumer(alias="orders")
    broker.put_events(event(1), event(2), event(1))
    consumer.open()
    deliveries = consumer.receive(10, 0)
    lease = ReceiverLease(database, "orders")
    lease.join()
    writer = Writer(database, "orders", "handlers")
    with CaptureQueriesContext(connections[database]) as queries:
        written = writer.write(writer.entries(deliveries), 3, lease)
    statements = [each["sql"] for each in queries if "NOTIFY" not in each["sql"]]
    if connections[database].vendor == "postgresql":
        assert len(statements) == 1
    assert (written.received, written.duplicates) == (3, 1)
    figures = OutboxReceiver.objects.using(database).get()
    assert (figures.received, figures.duplicates, figures.malformed) == (3, 1, 0)


def test_a_receiver_that_was_replaced_writes_nothing(database: str, broker: MemoryBroker) -> None:
    """Its row is gone, so its batch is not written, neither alone nor with dead letters."""
    consumer = memory_broker.MemoryConsumer(alias="orders")
    consumer.open()
    lease = ReceiverLease(database, "orders")
    writer = Writer(database, "orders", "handlers")
    for malformed in (False, True):
        broker.put_events(event(1))
        if malformed:
            broker.put(b"no event")
        deliveries = consumer.receive(10, 0)
        lease.join()
        OutboxReceiver.objects.using(database).all().delete()
        with pytest.raises(LeaseLost):
            writer.write(writer.entries(deliveries), len(deliveries), lease)
        assert lease.is_lost
    assert not OutboxEvent.objects.using(database).exists()


def _batch(database: str, broker: MemoryBroker, *numbers: int) -> Callable[[ReceiverLease], object]:
    """Receive events; return a function that writes them under a lease."""
    consumer = memory_broker.MemoryConsumer(alias="orders")
    consumer.open()
    broker.put_events(*map(event, numbers))
    deliveries = consumer.receive(10, 0)
    writer = Writer(database, "orders", "handlers")
    entries = writer.entries(deliveries)
    return lambda lease: writer.write(entries, len(deliveries), lease)


def test_a_batch_that_waits_for_another_receiver_delays_no_heartbeat(
    database: str, broker: MemoryBroker
) -> None:
    """Both hold the same message: the second one waits, and stays alive meanwhile."""
    if connections[database].vendor != "postgresql":
        pytest.skip("receivers take turns there")
    write = _batch(database, broker, 1)
    first, second = (ReceiverLease(database, "orders", reads_alone=False) for _ in range(2))
    first.join()
    second.join()
    with threads(2) as start:
        with transaction.atomic(using=database):
            write(first)
            waiting = start(lambda: write(second))
            wait_until(lambda: waits_for_lock(database), SECONDS, "the second one waits")
            start(lambda: second.renew({})).result(SECONDS)
        written: Any = waiting.result(SECONDS)
    assert (written.received, written.duplicates) == (1, 1)
    assert ids(database) == ["1"]


def test_a_receiver_that_waits_for_its_turn_delays_no_heartbeat(
    database: str, broker: MemoryBroker
) -> None:
    """On MariaDB and MySQL, receivers take turns to write their batches."""
    if connections[database].vendor != "mysql":
        pytest.skip("receivers write at the same time")
    first, second = (ReceiverLease(database, "orders", reads_alone=False) for _ in range(2))
    first.join()
    second.join()
    with threads(1) as start, transaction.atomic(using=database):
        first.begin()
        start(lambda: second.renew({})).result(SECONDS)
    OutboxReceiver.objects.using(database).all().delete()
    with pytest.raises(LeaseLost):
        second.renew({})


def test_a_receiver_that_is_being_replaced_writes_nothing(
    database: str, broker: MemoryBroker
) -> None:
    """Its batch waits until the others have deleted its row, and is not written then."""
    if connections[database].vendor != "postgresql":
        pytest.skip("receivers take turns there")
    write = _batch(database, broker, 1)
    lease = ReceiverLease(database, "orders", reads_alone=False)
    lease.join()
    with threads(1) as start:
        with transaction.atomic(using=database):
            OutboxReceiver.objects.using(database).all().delete()
            waiting = start(lambda: write(lease))
            wait_until(lambda: waits_for_lock(database), SECONDS, "the batch waits")
        with pytest.raises(LeaseLost):
            waiting.result(SECONDS)
    assert not OutboxEvent.objects.using(database).exists()
