"""Messages that break what reads or writes them become dead letters, and stop no other message."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from django.db import InternalError

from django_broadcaster.backends.base import Message
from django_broadcaster.consumers import ReceivedMessage, rows
from django_broadcaster.consumers.rows import Writer, redeliver
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import BackendUnavailable, Rejected
from django_broadcaster.models import OutboxEvent, OutboxReceiver
from django_broadcaster.registry import event_registry
from tests.support.memory_broker import MemoryBroker, MemoryConsumer
from tests.support.registered import only_handlers
from tests.support.waiting import wait_until

from .test_receiver import SECONDS, broker, configured, event, ids, receiving

__all__ = ["broker", "configured"]

OVER_A_STATEMENT = 17_000_000
"""Bytes that are over `max_allowed_packet`, which is 16 MB by default."""


class Unreadable(Exception):
    """An error whose text can't be read."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def _raising(error: BaseException) -> Callable[[ReceivedMessage], CloudEvent]:
    def decode(message: ReceivedMessage) -> CloudEvent:
        if message.body == b"bad":
            raise error
        return CloudEvent.from_json(message.body)

    return decode


ERRORS = {
    "exit": SystemExit("the decoder exits"),
    "quotes the message": ValueError("x" * OVER_A_STATEMENT),
    "not text": ValueError("a\0b\ud800"),
    "without text": Unreadable(),
    "recursion": RecursionError("too deep"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_any_error_of_decode_makes_a_dead_letter(
    database: str, broker: MemoryBroker, settings: Any, name: str
) -> None:
    """The messages around it are received, and its reason is kept in a reasonable length."""
    settings.OUTBOX_CONSUMERS["orders"]["OPTIONS"] = {"decode": _raising(ERRORS[name])}
    broker.put_events(event(1))
    broker.put(b"bad")
    broker.put_events(event(2))
    with receiving(database):
        wait_until(lambda: not broker.waiting, SECONDS, "acknowledged")
    first, bad, last = OutboxEvent.objects.using(database).order_by("id")
    assert [first.status, bad.status, last.status] == ["pending", "failed", "pending"]
    assert type(ERRORS[name]).__name__ in bad.last_error
    assert len(bad.last_error) < 20_000


def test_time_that_the_database_cannot_hold_makes_a_dead_letter(
    database: str, broker: MemoryBroker, settings: Any
) -> None:
    """Such as one before the year 1 in the project's time zone."""
    settings.USE_TZ = False
    settings.TIME_ZONE = "America/New_York"
    broker.put_events(event(1).replace(time="0001-01-01T00:00:00Z"), event(2))
    with receiving(database):
        wait_until(lambda: not broker.waiting, SECONDS, "acknowledged")
    statuses = OutboxEvent.objects.using(database).order_by("id").values_list("status", flat=True)
    assert list(statuses) == ["failed", "pending"]


HEADERS = {
    "surrogates": {"h": "\ud800\udc80"},
    "NUL": {"h\0": "\0"},
    "long": {"first": "x", "h": "x" * OVER_A_STATEMENT, "last": "x"},
    "many": {f"h{number}": "x" for number in range(20_000)},
}


@pytest.mark.parametrize("name", HEADERS)
def test_malformed_message_with_any_headers_is_stored(
    database: str, broker: MemoryBroker, name: str
) -> None:
    """Also one without a position, whose identity is a digest of its headers."""
    broker.put_events(event(1))
    broker.messages.append(ReceivedMessage(body=b"bad", origin="memory", headers=HEADERS[name]))
    broker.put_events(event(2))
    with receiving(database):
        wait_until(lambda: not broker.waiting, SECONDS, "acknowledged")
    statuses = OutboxEvent.objects.using(database).order_by("id").values_list("status", flat=True)
    assert list(statuses) == ["pending", "failed", "pending"]


def test_message_without_all_of_its_headers_is_not_decoded_again(
    database: str,
) -> None:
    """Its event might differ, so that a replay says where the message is."""
    message = ReceivedMessage(body=b"bad", origin="memory", position="7", headers=HEADERS["long"])
    writer = Writer(database, "orders", "handlers")
    call = writer._call()
    row = writer._dead_letter(call, message, rows.BEGINNING_BYTES)
    rows.write_rows(call.connection, [row])
    stored = OutboxEvent.objects.using(database).get()
    assert stored.publisher_config["received"]["headers"]["first"] == "x"
    dead_letter = Message.of(CloudEvent("t", "/s", b"bad"), config=stored.publisher_config)
    with pytest.raises(Rejected, match="read the message at the broker: memory, 7"):
        redeliver(dead_letter, database)


def test_batch_over_the_longest_statement_is_written(database: str, broker: MemoryBroker) -> None:
    """In several statements of one transaction, in its order."""
    events = [CloudEvent("t", "/s", "x" * 3_000_000, id=str(number)) for number in range(7)]
    broker.put_events(*events)
    with receiving(database):
        wait_until(lambda: not broker.waiting, SECONDS, "acknowledged")
    assert ids(database) == [str(number) for number in range(7)]


def test_database_without_write_permission_makes_no_dead_letters(
    database: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failover a server may be read-only for a while: nothing is wrong with messages."""
    failures = [InternalError("cannot execute INSERT in a read-only transaction")] * 4
    write = rows.write_rows

    def failing(connection: Any, wanted: Any) -> int:
        if failures:
            raise failures.pop()
        return write(connection, wanted)

    monkeypatch.setattr(rows, "write_rows", failing)
    broker.put_events(event(1), event(2), event(3))
    with receiving(database):
        wait_until(lambda: not broker.waiting, SECONDS, "acknowledged")
    statuses = OutboxEvent.objects.using(database).values_list("status", flat=True)
    assert list(statuses) == ["pending"] * 3


def test_retries_are_those_of_the_consumers_handlers(database: str, broker: MemoryBroker) -> None:
    """A handler that is registered for a consumer decides on the events of that consumer."""
    with only_handlers():
        event_registry.register("order.placed", consumer="orders", max_retries=17)(_handle)
        broker.put_events(event(1))
        with receiving(database):
            wait_until(lambda: not broker.waiting, SECONDS, "acknowledged")
    assert OutboxEvent.objects.using(database).get().max_retries == 17


def _handle(event: CloudEvent) -> None:
    """Do nothing."""


def test_receiver_with_an_expired_lease_reads_nothing_before_it_is_renewed(
    database: str, broker: MemoryBroker
) -> None:
    """A process that was suspended would take messages from the receiver that replaced it."""
    with receiving(database) as thread:
        wait_until(lambda: broker.opened == 1, SECONDS, "opened")
        receiver = thread._receiver
        wait_until(lambda: receiver.is_reading, SECONDS, "reading")
        OutboxReceiver.objects.using(database).all().delete()
        read: list[float] = []
        receive = receiver.consumer.receive

        def receiving_now(limit: int, seconds: float) -> Any:
            read.append(receiver.lease.seconds_left)
            return receive(limit, seconds)

        receiver.consumer.receive = receiving_now  # type: ignore[method-assign]
        receiver.lease._valid_until = 0.0
        wait_until(lambda: broker.opened == 2 and read, SECONDS, "read again")
    assert min(read) > 0


def test_secrets_of_a_consumer_are_masked_wherever_its_errors_are_shown(
    database: str, broker: MemoryBroker, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log, in a dead letter, and in the row of the receiver."""
    settings.OUTBOX_CONSUMERS["orders"] = {
        "CONSUMER": "tests.consumers.test_poison.WithPassword",
        "OPTIONS": {"password": "tr0ub4dor", "decode": _raising(ValueError("tr0ub4dor was read"))},
    }
    broker.put(b"bad")
    with receiving(database) as thread:
        wait_until(lambda: not broker.waiting, SECONDS, "acknowledged")
        broker.fail("receive", *[BackendUnavailable("AUTH tr0ub4dor\0\ud800 is wrong")] * 50)
        wait_until(lambda: thread.state.error, SECONDS, "unavailable")
        thread.renew()
        shown = OutboxReceiver.objects.using(database).get().error
        broker.script.clear()
    assert "AUTH ***" in shown
    dead = OutboxEvent.objects.using(database).get()
    assert "ValueError: *** was read" in dead.last_error
    lines = [logging.Formatter().format(record) for record in caplog.records]
    assert any("AUTH ***" in line for line in lines)
    assert not any("tr0ub4dor" in line for line in lines)


class WithPassword(MemoryConsumer):
    """A consumer with a secret option."""

    def __init__(self, *, password: str, **options: Any) -> None:
        super().__init__(**options)
