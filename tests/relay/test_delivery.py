"""What becomes of an event that is delivered, on every database."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connections
from django.dispatch import Signal
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_broadcaster.backends import Message, locmem
from django_broadcaster.events import JSON_NULL, CloudEvent
from django_broadcaster.exceptions import (
    BackendUnavailable,
    DeliveryError,
    Held,
    MissingClient,
    Rejected,
    TransientError,
)
from django_broadcaster.models import InboxEvent, OutboxAttempt, OutboxEvent, OutboxRelay
from django_broadcaster.publishers import publisher
from django_broadcaster.registry import event_registry
from django_broadcaster.relay import owned, rounds
from django_broadcaster.relay.loop import DeliveryLoop
from django_broadcaster.signals import event_failed, event_published, event_retried
from tests.app.models import Order
from tests.support.backends import Answer, Script, script
from tests.support.clock import Clock
from tests.support.events import first_arrivals, publish, publish_many, row, statuses
from tests.support.waiting import wait_until

from .conftest import SCRIPTED, Join, drain, turn

if TYPE_CHECKING:
    from pytest_django import Settings

BLUR = timedelta(milliseconds=200)
BUSY = TransientError("busy")


def events(using: str) -> Any:
    """Return the events of the database."""
    return OutboxEvent.objects.using(using)


def hasten(using: str) -> None:
    """Let everything that waits for its next attempt be due."""
    assert events(using).hasten()


def deliver(using: str) -> None:
    """Let a relay come, deliver everything, and leave."""
    with DeliveryLoop(using, "default") as loop:
        drain(loop)


# Delivered


def test_an_event_is_delivered_once_and_marked(database: str, scripted: Script, join: Join) -> None:
    """What the backend acknowledged is published, and is not sent again."""
    publish("a1", "b1", "-1", using=database)
    loop = join()
    before = timezone.now()
    report = turn(loop)
    assert (report.attempted, report.published) == (3, 3)
    assert not turn(loop).found_work
    assert scripted.arrived == ["a1", "b1", "-1"]
    for event in events(database):
        assert event.status == "published"
        assert before <= event.published_at <= timezone.now()
        assert (event.retry_count, event.crash_count, event.last_error) == (0, 0, "")


def test_a_key_keeps_its_order_over_batches(database: str, scripted: Script, join: Join) -> None:
    """Batches of any size deliver a key in publish order."""
    names = [f"{key}{number}" for number in range(1, 8) for key in "abc"]
    for name in names:
        publish(name, using=database)
    drain(join(), limit=4)
    assert scripted.arrived == names
    assert max(map(len, scripted.batches)) == 4


RECEIVED = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
EVENTS = {
    "received bytes without a type": CloudEvent.from_dict({**RECEIVED, "data_base64": "AP8="}),
    "received long names": CloudEvent.from_dict({**RECEIVED, "knativekafkapartition": "0"}),
    "null": CloudEvent(event_type="t", source="/s", data=JSON_NULL),
    "no data": CloudEvent(event_type="t", source="/s"),
    "object": CloudEvent(
        event_type="t", source="/s", data={"b": [1, 2.5, True, None], "a": {"ä": "☃"}}
    ),
    "text": CloudEvent(event_type="t", source="/s", data='naïve 🦓 " \\ \u2028'),
    "zero": CloudEvent(event_type="t", source="/s", data=0),
    "binary": CloudEvent(
        event_type="t",
        source="/s",
        data=b"\x00\xff bytes",
        data_content_type="application/octet-stream",
    ),
    "empty binary": CloudEvent(
        event_type="t", source="/s", data=b"", data_content_type="text/plain"
    ),
    "everything": CloudEvent(
        event_type="bestellung.überprüft",
        source="//shop.example/k%C3%A4se?q=1",
        id="ä/1",
        subject="日本/☃",
        time=datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=UTC),
        data=[{"total": "19.50"}],
        data_content_type="application/vnd.shop+json",
        data_schema="https://shop.example/schemas/order",
        extensions={"partitionkey": "ключ 🔑", "traceparent": "00-ab-cd-01", "flag": True, "n": 7},
    ),
}


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_arrives_as_it_was_published(
    database: str, scripted: Script, join: Join, name: str
) -> None:
    """Every attribute and the data reach the backend unchanged."""
    row = publisher.publish_cloud_event(EVENTS[name], using=database)
    turn(join())
    (message,) = scripted.messages
    assert message.event == EVENTS[name]
    assert message.event == events(database).get(pk=row.pk).cloud_event
    assert message.partition_key == EVENTS[name].extensions.get("partitionkey", "")


def test_a_backend_is_told_the_attempt_and_the_config(
    database: str, scripted: Script, join: Join
) -> None:
    """A message has its event's config, and the number of the attempt."""
    scripted.fail("a1", BUSY, times=1)
    publish("a1", using=database, publisher_config={"lane": "fast"})
    loop = join()
    turn(loop)
    hasten(database)
    turn(loop)
    (message,) = scripted.messages
    assert (message.config, message.attempt) == ({"lane": "fast"}, 2)


def test_a_batch_costs_three_statements(database: str, scripted: Script, join: Join) -> None:
    """One statement fetches a batch, one begins it and one settles it, however large it is."""
    publish(*(f"a{number}" for number in range(50)), using=database)
    loop = join()
    turn(loop, limit=10)
    with CaptureQueriesContext(connections[database]) as queries:
        report = loop.deliver(100)
    assert report.published == 40
    assert [step_of(query["sql"]) for query in queries] == ["fetch", "begin", "settle"]


def test_failures_cost_one_statement_for_each_fate(
    database: str, scripted: Script, join: Join
) -> None:
    """However many events of a batch are given up or wait, each with an error of its own, one
    statement makes them dead letters, one lets them wait, and one keeps the attempts.
    """
    names = [f"-{number}" for number in range(42)]  # without keys, so that none holds another up
    dead, late = names[:20], names[20:40]
    for name in dead:
        scripted.fail(name, Rejected(f"no {name}"))
    for name in late:
        scripted.fail(name, TransientError(f"not yet {name}"))
    publish(*names, using=database)
    loop = join()
    loop.do_rounds()
    with CaptureQueriesContext(connections[database]) as queries:
        report = loop.deliver(100)
    assert (report.published, report.retried, report.failed) == (2, 20, 20)
    assert len(queries) == 6  # fetch, begin, and settle: published, retry, dead letters, attempts
    failed = events(database).exclude(status="published")
    assert set(failed.values_list("subject", "status", "last_error", "retry_count")) == {
        *((name, "failed", f"Rejected: no {name}", 0) for name in dead),
        *((name, "retry", f"TransientError: not yet {name}", 1) for name in late),
    }


def test_a_large_batch_that_fails_is_settled(database: str, scripted: Script, join: Join) -> None:
    """Also where its values are more than a database takes as parameters of one statement."""
    scripted.fail("*", TransientError("not yet"))
    count = 1500
    if connections[database].vendor == "sqlite":  # builds differ in it; none allows so few
        connections[database].ensure_connection()
        connections[database].connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 10_000)
    publish_many(count, using=database, keys=count)
    loop = join()
    loop.do_rounds()
    report = loop.deliver(count)
    assert (report.retried, OutboxAttempt.objects.using(database).count()) == (count, count)
    waiting = events(database).filter(status="retry", retry_count=1)
    assert waiting.filter(last_error="TransientError: not yet").count() == count


def step_of(sql: str) -> str:
    """Return the step of a delivery that a statement is."""
    if "UPDATE django_broadcaster_outboxrelay" in sql:
        return "begin"
    return "settle" if "UPDATE django_broadcaster_outboxevent" in sql else "fetch"


@pytest.mark.parametrize(
    ("outcome", "words"),
    [(ValueError("wrong"), "ValueError: wrong"), (True, "an outcome of type bool")],
    ids=["an error of nobody's", "no error"],
)
def test_an_outcome_that_is_none_of_ours_is_blamed_on_its_event(
    database: str, scripted: Script, join: Join, outcome: object, words: str
) -> None:
    """A backend's mistake must not have a batch sent again for ever."""

    def answer(messages: Sequence[Message]) -> Any:
        return [outcome if each.subject == "b1" else None for each in messages]

    scripted.answer = answer
    publish("a1", "b1", "c1", using=database)
    turn(join())
    assert statuses(database) == {"a1": "published", "b1": "retry", "c1": "published"}
    assert words in row("b1", database).last_error


def test_an_idle_look_costs_one_statement(
    database: str, scripted: Script, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay that has had nothing to do for a while asks once, and sees what there is."""
    monkeypatch.setattr(rounds, "TICK_SECONDS", 0.1)
    loop = join()
    turn(loop)
    loop.turn(100, idle=True)
    with CaptureQueriesContext(connections[database]) as queries:
        loop.turn(100, idle=True)
    assert len(queries) == 1
    publish("a1", using=database)
    publish("b1", using=database, scheduled_at=timezone.now() + timedelta(hours=1))
    assert loop.turn(100, idle=True).published == 1
    events(database).filter(subject="b1").update(scheduled_at=timezone.now())

    def arrived() -> bool:
        loop.turn(100, idle=True)
        return "b1" in scripted.arrived

    wait_until(arrived, 5, "the scheduled event")


def test_a_key_that_is_free_again_waits_for_no_other(
    database: str, scripted: Script, join: Join
) -> None:
    """However many events another key has that is freed in the same delivery."""
    for name in ("a0", "s0"):
        scripted.fail(name, TransientError("busy", retry_after=3600), times=1)
    publish("a0", "s0", using=database)
    publish(*(f"a{number}" for number in range(1, 1101)), "s1", using=database)
    loop = join()
    drain(loop, 500)
    events(database).hasten()
    turn(loop)
    assert {"a0", "s0"} <= set(scripted.arrived)
    assert row("s1", database).status == "pending", "a look at all blocked keys has yet to find it"


def test_an_idle_relay_lets_a_key_go_on_that_was_just_blocked(
    database: str, scripted: Script, join: Join
) -> None:
    """Cancelled right after it failed, also where the relay looks often and is idle at once."""
    loop = join()
    turn(loop)
    loop.turn(100, idle=True)  # which gets to know who is there
    scripted.fail("a1", TransientError("not yet", retry_after=3600))
    publish("a1", "a2", using=database)
    loop.turn(100, idle=True)
    assert statuses(database) == {"a1": "retry", "a2": "blocked"}
    events(database).filter(subject="a1").cancel()

    def arrived() -> bool:
        loop.turn(100, idle=True)
        return "a2" in scripted.arrived

    wait_until(arrived, 5, "the event behind it")


def test_an_idle_minute_costs_two_statements_a_second(
    database: str, scripted: Script, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks, heartbeats, rounds, purges and the dashboard's figures of a relay without work."""
    loop = join()
    turn(loop)
    real, ahead = time.monotonic, 60  # past what is done once at the start
    monkeypatch.setattr(time, "monotonic", lambda: real() + ahead)
    loop.lease.renew()
    loop.turn(100)
    with CaptureQueriesContext(connections[database]) as queries:
        for second in range(60):
            ahead += 1
            if second % 4 == 0:
                loop.lease.renew()
            loop.turn(100, idle=True)
    assert len(queries) <= 120


def test_retention_zero_deletes_what_was_delivered(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """With OUTBOX_RETENTION = 0 an event leaves the outbox as it is delivered, and no other."""
    settings.OUTBOX_RETENTION = 0
    scripted.fail("b1", Rejected("never"))
    publish("a1", "b1", "a2", using=database)
    turn(join())
    assert statuses(database) == {"b1": "failed"}


# Failures


def test_a_transient_failure_is_tried_again_later(
    database: str, scripted: Script, join: Join
) -> None:
    """Each failure makes the next attempt wait longer, and is counted with its error."""
    scripted.fail("a1", BUSY, times=3)
    publish("a1", using=database)
    loop = join()
    for attempt, delay in enumerate([1, 2, 4], start=1):
        before = timezone.now()
        turn(loop)
        event = row("a1", database)
        assert (event.status, event.retry_count) == ("retry", attempt)
        assert event.last_error == "TransientError: busy"
        wait = timedelta(seconds=delay)
        # The relay estimates the database's clock, as exactly as the server answers quickly.
        assert before - BLUR <= event.scheduled_at - wait <= timezone.now() + BLUR
        assert not turn(loop).attempted, "it was tried before its time"
        hasten(database)
    turn(loop)
    event = row("a1", database)
    assert (event.status, event.retry_count) == ("published", 3)
    assert scripted.arrived == ["a1"]


def test_a_retry_comes_by_itself(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """The next attempt is made once its time has come, with nobody's help."""
    settings.OUTBOX_RETRY = {"initial": 0.05, "factor": 2.0}
    scripted.fail("a1", BUSY, times=1)
    publish("a1", "a2", using=database)
    loop = join()

    def arrived() -> bool:
        turn(loop)
        return len(scripted.arrived) == 2

    wait_until(arrived, 5, "the retry")
    assert scripted.arrived == ["a1", "a2"]


def test_a_waiting_event_holds_back_its_own_key_only(
    database: str, scripted: Script, join: Join
) -> None:
    """The followers of an event in retry are blocked and let go in order; other keys go on."""
    scripted.fail("a2", BUSY, times=2)
    publish("a1", "a2", "b1", "a3", "-1", using=database)
    loop = join()
    turn(loop)
    publish("a4", "b2", using=database)
    drain(loop)
    assert scripted.arrived == ["a1", "b1", "-1", "b2"]
    waiting = {"a2": "retry", "a3": "blocked", "a4": "blocked"}
    assert {name: status for name, status in statuses(database).items() if name in waiting} == (
        waiting
    )
    hasten(database)
    turn(loop)
    assert row("a2", database).status == "retry", "it fails a second time"
    publish("a5", using=database)
    drain(loop)
    hasten(database)
    drain(loop)
    assert scripted.arrived == ["a1", "b1", "-1", "b2", "a2", "a3", "a4", "a5"]
    followers = events(database).filter(subject__in=["a3", "a4", "a5"])
    assert set(followers.values_list("retry_count", "status")) == {(0, "published")}


def test_events_without_a_key_do_not_wait_for_each_other(
    database: str, scripted: Script, join: Join
) -> None:
    """An event without a key that failed holds up nothing."""
    scripted.fail("-1", BUSY)
    publish("-1", "-2", using=database)
    loop = join()
    turn(loop)
    publish("-3", using=database)
    turn(loop)
    assert scripted.arrived == ["-2", "-3"]
    assert row("-1", database).status == "retry"


def test_similar_keys_are_different_keys(database: str, scripted: Script, join: Join) -> None:
    """Keys that differ in case, accents or space do not wait for each other, and each waits."""
    keys = ["k", "K", "ķ", "k ", " ", "k\u200b"]
    loop = join()
    for key in keys:
        event = publisher.publish_event(
            "t", "/s", subject=f"{key}1", partition_key=key, using=database
        )
        scripted.fail(f"{key}1", BUSY, times=1)
        assert event.partition_key == key
    turn(loop)
    for key in keys:
        publisher.publish_event("t", "/s", subject=f"{key}2", partition_key=key, using=database)
    drain(loop)
    assert scripted.arrived == []
    assert events(database).filter(partition_key="k").hasten() == 1
    drain(loop)
    assert scripted.arrived == ["k1", "k2"]
    hasten(database)
    drain(loop)
    assert sorted(scripted.arrived) == sorted(f"{key}{number}" for key in keys for number in (1, 2))
    for key in keys:
        assert scripted.arrived.index(f"{key}1") < scripted.arrived.index(f"{key}2")


def test_similar_aliases_are_different_backends(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """Aliases that differ in case, accents or space have events and partitions of their own."""
    aliases = ["orders", "Orders", "\u00f2rders", "orders "]
    settings.OUTBOX_PUBLISHERS = {alias: {"BACKEND": SCRIPTED} for alias in aliases}
    for number, alias in enumerate(aliases, 1):
        publish(f"a{number}", using=database, backend=alias)
    for loop in [join(alias) for alias in aliases]:
        drain(loop)
        assert len(loop.lease.partitions) == 64
    assert [script(alias).arrived for alias in aliases] == [["a1"], ["a2"], ["a3"], ["a4"]]


def test_an_event_out_of_retries_is_a_dead_letter(
    database: str, scripted: Script, join: Join
) -> None:
    """After its last attempt it stays with its error, and the rest of its key goes on."""
    scripted.fail("a1", BUSY)
    publish("a1", "a2", using=database, max_retries=2)
    loop = join()
    turn(loop)
    for _ in range(2):
        hasten(database)
        drain(loop)
    assert statuses(database) == {"a1": "failed", "a2": "published"}
    event = row("a1", database)
    assert (event.retry_count, event.last_error) == (2, "TransientError: busy")
    assert sum("a1" in batch for batch in scripted.batches) == 3


def test_without_retries_the_first_failure_is_the_last(
    database: str, scripted: Script, join: Join
) -> None:
    """With max_retries=0 there is one attempt, and the rest of the key goes on."""
    scripted.fail("a1", BUSY)
    publish("a1", "a2", using=database, max_retries=0)
    drain(join())
    assert statuses(database) == {"a1": "failed", "a2": "published"}
    assert sum("a1" in batch for batch in scripted.batches) == 1


def test_a_key_can_be_made_to_wait_for_ever(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """With ON_EXHAUSTED = "block" an event out of retries keeps its place, and its key waits."""
    entry = {"BACKEND": SCRIPTED, "ON_EXHAUSTED": "block", "RETRY": {"maximum": 9}}
    settings.OUTBOX_PUBLISHERS = {"default": entry}
    scripted.fail("a1", BUSY, times=3)
    publish("a1", "a2", "b1", using=database, max_retries=0)
    loop = join()
    for _ in range(3):
        before = timezone.now()
        drain(loop)
        assert statuses(database) == {"a1": "retry", "a2": "blocked", "b1": "published"}
        assert row("a1", database).scheduled_at >= before + timedelta(seconds=9)
        hasten(database)
    drain(loop)
    assert scripted.arrived == ["b1", "a1", "a2"]


def test_a_rejected_event_is_a_dead_letter_at_once(
    database: str, scripted: Script, join: Join
) -> None:
    """An event that can never be sent costs one attempt, and the rest of its key goes on."""
    scripted.fail("a1", Rejected("too large"))
    publish("a1", "a2", "b1", using=database)
    drain(join())
    assert statuses(database) == {"a1": "failed", "a2": "published", "b1": "published"}
    event = row("a1", database)
    assert (event.retry_count, event.last_error) == (0, "Rejected: too large")
    assert sum("a1" in batch for batch in scripted.batches) == 1


@pytest.mark.parametrize("raised", [False, True], ids=["returned", "raised"])
def test_an_outage_costs_nothing(
    database: str, scripted: Script, join: Join, settings: Settings, raised: bool
) -> None:
    """While the broker is away no retry is spent; a small probe finds it back."""
    settings.OUTBOX_CIRCUIT = {"initial": 0.01, "maximum": 0.01, "probe_size": 2}
    away = BackendUnavailable("connection refused")

    def refuse(messages: Sequence[Message]) -> list[DeliveryError]:
        if raised:
            raise away
        return [away] * len(messages)

    scripted.answer = refuse
    publish(*(f"{key}1" for key in "abcdefgh"), using=database)
    loop = join()

    def probes(count: int) -> Callable[[], bool]:
        def turned() -> bool:
            turn(loop)
            return len(scripted.batches) >= count

        return turned

    wait_until(probes(5), 5, "four probes")
    assert [len(batch) for batch in scripted.batches[:5]] == [8, 2, 2, 2, 2]
    untouched = events(database).filter(status="pending", retry_count=0, last_error="")
    assert untouched.count() == 8
    scripted.answer = None
    before = len(scripted.batches)
    wait_until(probes(before + 2), 5, "the broker found back")
    assert [len(batch) for batch in scripted.batches[before:]] == [2, 6]
    assert sorted(scripted.arrived) == [f"{key}1" for key in "abcdefgh"]
    assert loop.circuit.is_closed


def test_nothing_is_sent_while_the_circuit_is_open(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """Until the pause is over the broker is left alone, and the outbox too."""
    settings.OUTBOX_CIRCUIT = {"initial": 60.0, "maximum": 60.0}
    scripted.fail("*", BackendUnavailable("away"))
    publish("a1", using=database)
    loop = join()
    turn(loop)
    for _ in range(3):
        assert not turn(loop).found_work
    assert len(scripted.batches) == 1


@pytest.mark.parametrize("has_partitions", [True, False], ids=["no event", "no partition"])
def test_a_broker_that_is_back_is_noticed_where_nothing_is_to_be_sent(
    database: str,
    scripted: Script,
    join: Join,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    has_partitions: bool,
) -> None:
    """What waited was cancelled, or is another relay's: no alert must hang on it."""
    settings.OUTBOX_CIRCUIT = {"initial": 0.01, "maximum": 0.01}
    scripted.fail("*", BackendUnavailable("away"))
    publish("a1", using=database)
    loop = join()
    turn(loop)
    events(database).cancel()
    if not has_partitions:
        monkeypatch.setattr(loop.lease, "rebalance", lambda: False)
        loop.lease.partitions = frozenset()
    answers = [False, False, True]
    monkeypatch.setattr(loop.broker.backend, "health_check", lambda: answers.pop(0))

    def is_back() -> bool:
        turn(loop)
        return loop.circuit.is_closed

    wait_until(is_back, 5, "the circuit to close")
    assert not answers
    turn(loop)  # nobody is asked again
    assert OutboxRelay.objects.using(database).get().circuit_open_since is None


def test_a_broker_that_goes_away_in_a_batch_keeps_what_it_took(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """What was acknowledged before the outage is published, and the rest waits in order."""
    settings.OUTBOX_CIRCUIT = {"initial": 0.01, "maximum": 0.01}
    scripted.fail("b1", BackendUnavailable("gone"), times=1)
    publish("a1", "b1", "a2", using=database)
    loop = join()
    turn(loop)
    assert statuses(database) == {"a1": "published", "b1": "pending", "a2": "pending"}

    def arrived() -> bool:
        turn(loop)
        return len(scripted.arrived) == 3

    wait_until(arrived, 5, "the rest")
    assert sorted(scripted.arrived) == ["a1", "a2", "b1"]
    assert first_arrivals(scripted.arrived)["a"] == ["a1", "a2"]


@pytest.mark.parametrize(
    "error", [BackendUnavailable("no"), BUSY, OSError("no route"), RuntimeError("a bug")], ids=repr
)
def test_a_backend_that_cannot_be_opened_is_away(
    database: str, scripted: Script, join: Join, settings: Settings, error: Exception
) -> None:
    """Whatever `open` raises, the events wait for it to succeed."""
    settings.OUTBOX_CIRCUIT = {"initial": 0.01, "maximum": 0.01}

    def fail() -> None:
        raise error

    scripted.on_open = fail
    publish("a1", using=database)
    loop = join()
    for _ in range(3):
        assert not turn(loop).found_work
    assert not loop.circuit.is_closed
    assert row("a1", database).status == "pending"
    scripted.on_open = None

    def arrived() -> bool:
        turn(loop)
        return bool(scripted.arrived)

    wait_until(arrived, 5, "the backend opened")


def test_a_broker_that_is_back_is_so_without_an_event_to_send(
    database: str, scripted: Script, join: Join, clock: Clock
) -> None:
    """Where nothing is published for a day, it must not count as away for a day."""

    def fail() -> None:
        raise OSError("no route")

    scripted.on_open = fail
    loop = join()
    for _ in range(2):
        turn(loop)
    assert OutboxRelay.objects.using(database).get().circuit_open_since is not None
    scripted.heal()
    clock.advance(60)
    turn(loop)
    assert loop.circuit.is_closed
    assert OutboxRelay.objects.using(database).get().circuit_open_since is None


def test_a_missing_client_blames_no_event(database: str, scripted: Script, join: Join) -> None:
    """A wrong setting that shows only when a batch is sent is raised, and no event pays for it."""

    def fail(messages: Sequence[Message]) -> Any:
        raise MissingClient("pigeon", "pigeon")

    scripted.answer = fail
    publish("a1", "a2", using=database)
    with pytest.raises(MissingClient):
        turn(join())
    assert set(events(database).values_list("status", "retry_count")) == {("pending", 0)}


@pytest.mark.parametrize("error", [ValueError("a bug"), SystemExit(3)], ids=repr)
def test_an_unforeseen_error_is_transient(
    database: str, scripted: Script, join: Join, error: BaseException
) -> None:
    """Whatever `publish` raises, the event is tried again, and its error is kept."""
    scripted.fail("a1", error)
    publish("a1", "b1", using=database)
    loop = join()
    drain(loop)
    event = row("a1", database)
    assert (event.status, event.retry_count) == ("retry", 1)
    assert f"{type(error).__name__}: {error}" in event.last_error
    assert row("b1", database).status == "published"
    scripted.heal()
    hasten(database)
    drain(loop)
    assert row("a1", database).status == "published"


def only(*chosen: str) -> Callable[[Sequence[Message]], list[None]]:
    """Return an answer that breaks for every batch with one of the chosen events."""

    def answer(messages: Sequence[Message]) -> list[None]:
        for message in messages:
            if message.subject in chosen:
                raise ValueError(f"can't serialize {message.subject}")
        return [None] * len(messages)

    return answer


def test_an_event_that_breaks_a_batch_is_found(database: str, scripted: Script, join: Join) -> None:
    """The others of a batch that broke as a whole lose no attempt, and keep their order."""
    scripted.answer = only("a2")
    names = ["a1", "b1", "a2", "b2", "a3", "-1"]
    publish(*names, using=database, max_retries=0)
    drain(join())
    assert statuses(database) == dict.fromkeys(names, "published") | {"a2": "failed"}
    assert "can't serialize a2" in row("a2", database).last_error
    assert set(events(database).values_list("retry_count", flat=True)) == {0}


@pytest.mark.parametrize("kind", [TransientError, Rejected])
def test_an_error_raised_for_a_batch_is_not_every_events_fault(
    database: str, scripted: Script, join: Join, kind: type[DeliveryError]
) -> None:
    """A backend that raises for a batch, instead of returning outcomes, costs one event at most."""

    def answer(messages: Sequence[Message]) -> list[None]:
        if any(message.subject == "a1" for message in messages):
            raise kind("no")
        return [None] * len(messages)

    scripted.answer = answer
    publish("a1", "b1", "c1", using=database, max_retries=0)
    drain(join())
    assert statuses(database) == {"a1": "failed", "b1": "published", "c1": "published"}


@pytest.mark.parametrize(
    "answer",
    [
        lambda messages: [None] * (len(messages) - 1),
        lambda messages: [None] * (len(messages) + 1),
        lambda messages: [],
        lambda messages: None,
        lambda messages: (None for _ in messages),
    ],
    ids=["few", "many", "none", "None", "generator"],
)
def test_a_wrong_answer_is_a_failure(
    database: str, scripted: Script, join: Join, answer: Answer
) -> None:
    """A backend that does not return one outcome for each message acknowledges nothing by it."""
    scripted.answer = answer
    publish("a1", "a2", "b1", using=database)
    loop = join()
    turn(loop)
    assert statuses(database) == {"a1": "retry", "a2": "blocked", "b1": "retry"}
    scripted.heal()
    hasten(database)
    drain(loop)
    assert set(statuses(database).values()) == {"published"}


def test_held_events_wait_for_the_one_that_failed(
    database: str, scripted: Script, join: Join
) -> None:
    """Held events lose no attempt: blocked behind a retry, next behind a dead letter."""
    held = Held("behind")
    scripted.answer = lambda messages: {
        4: [BUSY, held, Rejected("no"), held],
    }.get(len(messages), [None] * len(messages))
    publish("a1", "a2", "b1", "b2", using=database)
    loop = join()
    turn(loop)
    assert statuses(database) == {
        "a1": "retry",
        "a2": "blocked",
        "b1": "failed",
        "b2": "pending",
    }
    drain(loop)
    hasten(database)
    drain(loop)
    assert statuses(database) == {
        "a1": "published",
        "a2": "published",
        "b1": "failed",
        "b2": "published",
    }
    assert set(events(database).exclude(subject="a1").values_list("retry_count")) == {(0,)}


def test_events_without_a_key_are_left_to_the_next_batch(
    database: str, scripted: Script, join: Join
) -> None:
    """A backend that has no time for all of them loses none, and no attempt."""
    scripted.answer = lambda messages: [None, *[Held("no time")] * (len(messages) - 1)]
    publish("-1", "-2", "-3", using=database, max_retries=0)
    loop = join()
    turn(loop)
    assert statuses(database) == {"-1": "published", "-2": "pending", "-3": "pending"}
    drain(loop)
    assert set(statuses(database).values()) == {"published"}
    assert set(events(database).values_list("retry_count")) == {(0,)}


def test_held_for_no_reason_is_a_failure(database: str, scripted: Script, join: Join) -> None:
    """A backend that holds an event back behind nothing does not keep the relay busy for ever."""
    scripted.answer = lambda messages: [Held("just so")] * len(messages)
    publish("a1", "-1", using=database, max_retries=0)
    drain(join())
    assert statuses(database) == {"a1": "failed", "-1": "failed"}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("x" * 5000, "x" * 1900),
        ("nul \0 byte", "nul \ufffd byte"),
        ("surrogate \udcff", "surrogate ?"),
        ("zebra 🦓", "zebra 🦓"),
    ],
    ids=["long", "nul", "surrogate", "emoji"],
)
def test_any_error_text_can_be_kept(
    database: str, scripted: Script, join: Join, text: str, kept: str
) -> None:
    """An error that the database could not hold as it is does not stop the delivery."""
    scripted.fail("a1", TransientError(text))
    publish("a1", "b1", using=database)
    turn(join())
    assert statuses(database) == {"a1": "retry", "b1": "published"}
    assert kept in row("a1", database).last_error


def test_an_error_without_a_text_can_be_kept(database: str, scripted: Script, join: Join) -> None:
    """An error that can't even say what it is does not stop the delivery."""

    class SpeechlessError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    scripted.fail("a1", SpeechlessError())
    publish("a1", "b1", using=database)
    drain(join())
    assert statuses(database) == {"a1": "retry", "b1": "published"}
    assert "no words" in row("a1", database).last_error


# Later


def test_a_scheduled_event_waits_for_its_time(database: str, scripted: Script, join: Join) -> None:
    """An event for later is not delivered before, and is delivered then."""
    due = timezone.now() + timedelta(seconds=0.3)
    publish("a1", using=database, scheduled_at=due)
    publish("a2", using=database)
    loop = join()
    turn(loop)
    assert statuses(database) == {"a1": "scheduled", "a2": "published"}

    def arrived() -> bool:
        turn(loop)
        return "a1" in scripted.arrived

    wait_until(arrived, 10, "the scheduled event")
    assert row("a1", database).published_at >= due
    assert scripted.arrived == ["a2", "a1"]


def test_events_due_at_once_come_in_publish_order(
    database: str, scripted: Script, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More events than one step promotes arrive in the order of their keys all the same."""
    monkeypatch.setattr(owned, "CHUNK", 3)
    due = timezone.now() + timedelta(hours=1)
    names = [f"a{number}" for number in range(1, 11)]
    for name in names:
        publish(name, using=database, scheduled_at=due)
    loop = join()
    turn(loop)
    events(database).update(scheduled_at=timezone.now())
    drain(loop, limit=2)
    assert scripted.arrived == names


def test_more_followers_than_one_step_releases_come_in_order(
    database: str, scripted: Script, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key with many blocked events goes on in order, with new ones behind them."""
    monkeypatch.setattr(owned, "CHUNK", 3)
    scripted.fail("a1", BUSY, times=1)
    names = [f"a{number}" for number in range(1, 12)]
    publish(*names, using=database)
    loop = join()
    drain(loop)
    hasten(database)
    for number in range(12, 16):
        names += (f"a{number}",)
        publish(names[-1], using=database)
        turn(loop, limit=2)
    drain(loop, limit=2)
    assert scripted.arrived == names


def test_followers_stay_put_until_the_head_is_through(
    database: str, scripted: Script, join: Join
) -> None:
    """While the head is tried again its followers are left where they are."""
    scripted.fail("a1", BUSY)
    publish("a1", "a2", "a3", using=database)
    loop = join()
    turn(loop)
    hasten(database)
    with CaptureQueriesContext(connections[database]) as queries:
        turn(loop)
    moved = [query["sql"] for query in queries if "'blocked'" in query["sql"].partition("WHERE")[0]]
    assert moved == []
    assert scripted.batches == [["a1", "a2", "a3"], ["a1"]]


# What an operator does


@pytest.mark.parametrize("when", ["blocking", "blocked"])
def test_cancelling_the_head_lets_its_key_go_on(
    database: str, scripted: Script, join: Join, when: str
) -> None:
    """Followers of a cancelled event are delivered, by the relay that knew of it or by another."""
    scripted.fail("a1", BUSY)
    publish("a1", "a2", "a3", using=database)
    loop = join()
    turn(loop)
    assert events(database).filter(subject="a1").cancel() == 1
    if when == "blocked":
        loop.join()
    drain(loop)
    assert statuses(database) == {"a1": "cancelled", "a2": "published", "a3": "published"}
    assert scripted.arrived == ["a2", "a3"]


def test_a_cancelled_event_is_not_delivered(database: str, scripted: Script, join: Join) -> None:
    """Whatever waits can be cancelled, and is not delivered then."""
    scripted.fail("a1", BUSY)
    publish("a1", "a2", using=database)
    publish("b1", using=database, scheduled_at=timezone.now() + timedelta(hours=1))
    loop = join()
    turn(loop)
    publish("c1", using=database)
    assert events(database).cancel() == 4
    drain(loop)
    assert scripted.arrived == []
    assert set(statuses(database).values()) == {"cancelled"}


def test_an_event_cancelled_on_its_way_stays_cancelled(
    database: str, scripted: Script, join: Join
) -> None:
    """Cancelled while it is being sent, an event may arrive; its batch is settled all the same."""

    def cancel(messages: Sequence[Message]) -> list[None]:
        events(database).filter(subject="a1").cancel()
        return [None] * len(messages)

    scripted.answer = cancel
    publish("a1", "b1", using=database)
    loop = join()
    turn(loop)
    assert statuses(database) == {"a1": "cancelled", "b1": "published"}
    drain(loop)


@pytest.mark.parametrize("how", ["failed", "published", "cancelled"])
def test_a_replayed_event_is_delivered_again(
    database: str, scripted: Script, join: Join, how: str
) -> None:
    """A replay starts from new, with all its retries."""
    if how == "failed":
        scripted.fail("a1", Rejected("no"))
    publish("a1", using=database, max_retries=1)
    loop = join()
    if how == "cancelled":
        events(database).cancel()
    drain(loop)
    assert row("a1", database).status == how
    scripted.heal()
    scripted.fail("a1", BUSY, times=1)
    arrived = len(scripted.arrived)
    assert events(database).replay() == 1
    drain(loop)
    assert row("a1", database).status == "retry"
    hasten(database)
    drain(loop)
    assert row("a1", database).status == "published"
    assert scripted.arrived[arrived:] == ["a1"]


def test_a_replayed_event_goes_before_what_its_key_has_waiting(
    database: str, scripted: Script, join: Join
) -> None:
    """A replayed event has its old place among the events of its key that are undelivered."""
    scripted.fail("a1", Rejected("no"))
    publish("a1", using=database)
    deliver(database)
    scripted.heal()
    publish("a2", using=database)
    assert events(database).dead_letters().replay() == 1
    drain(join())
    assert scripted.arrived == ["a1", "a2"]


def test_hastened_events_do_not_overtake(database: str, scripted: Script, join: Join) -> None:
    """An event in retry that is hastened goes at once, and its key behind it."""
    scripted.fail("a1", BUSY, times=1)
    publish("a1", "a2", using=database)
    loop = join()
    turn(loop)
    assert events(database).hasten() == 1
    drain(loop)
    assert scripted.arrived == ["a1", "a2"]


# Signals


@pytest.fixture
def heard() -> Iterator[list[tuple[Signal, dict[str, Any]]]]:
    """Everything that the relay's signals say, and receivers that fail."""
    said: list[tuple[Signal, dict[str, Any]]] = []

    def listen(signal: Signal, **arguments: Any) -> None:
        said.append((signal, arguments))

    def fail(**_: Any) -> None:
        raise RuntimeError("a receiver's bug")

    signals = (event_published, event_retried, event_failed)
    for signal in signals:
        signal.connect(fail)
        signal.connect(listen)
    yield said
    for signal in signals:
        signal.disconnect(fail)
        signal.disconnect(listen)


@pytest.mark.parametrize("keep", [3600, 0], ids=["kept", "deleted"])
def test_signals_tell_what_happened(
    database: str,
    scripted: Script,
    join: Join,
    settings: Settings,
    heard: list[tuple[Signal, dict[str, Any]]],
    keep: int,
) -> None:
    """Each signal has its event, and its error and delay; a receiver that fails breaks nothing."""
    settings.OUTBOX_RETENTION = keep
    refused = Rejected("no")
    scripted.fail("b1", BUSY, times=1)
    scripted.fail("c1", refused)
    publish("a1", "b1", "c1", using=database)
    turn(join())
    assert [(signal, said["event"].subject) for signal, said in heard] == [
        (event_published, "a1"),
        (event_retried, "b1"),
        (event_failed, "c1"),
    ]
    (_, published), (_, retried), (_, failed) = heard
    assert {said["sender"] for _, said in heard} == {OutboxEvent}
    assert published["event"].status == "published"
    assert published["event"].published_at is not None
    assert (retried["error"], retried["delay"]) == (BUSY, 1.0)
    assert failed["error"] is refused
    for said, name in ((retried, "b1"), (failed, "c1")):
        event = row(name, database)
        for field in ("status", "retry_count", "last_error", "event_id"):
            assert getattr(said["event"], field) == getattr(event, field)
        assert abs(said["event"].scheduled_at - event.scheduled_at) < timedelta(seconds=1)


def test_a_signal_without_receivers_costs_nothing(
    database: str, scripted: Script, join: Join, heard: list[Any]
) -> None:
    """Events are read back for receivers only: one statement more for a batch."""
    publish("a1", "a2", using=database)
    loop = join()
    turn(loop)
    publish("a3", "a4", using=database)
    with CaptureQueriesContext(connections[database]) as queries:
        loop.deliver(100)
    assert len(heard) == 4
    assert len(queries) == 4


# The backends that need no broker


def test_locmem_keeps_what_was_delivered(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """The memory backend has the messages in order, where a test can look."""
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": "django_broadcaster.backends.LocMemBackend"}
    }
    publish("a1", "a2", using=database)
    drain(join())
    assert [message.subject for message in locmem.outbox()] == ["a1", "a2"]


@pytest.fixture
def local(routed: str, settings: Settings) -> str:
    """The database, with handlers as the backend."""
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": "django_broadcaster.backends.LocalBackend"}
    }
    return routed


@pytest.fixture
def handlers() -> Iterator[Callable[..., None]]:
    """Registers handlers by name, until the test is over."""
    names: list[str] = []

    def register(name: str, function: Callable[[CloudEvent], object]) -> None:
        event_registry.register("order.*", name=name)(function)
        names.append(name)

    yield register
    for name in names:
        event_registry.unregister(name)


def test_local_handlers_run_once_for_an_event(
    local: str, join: Join, handlers: Callable[..., None]
) -> None:
    """A handler that succeeded does not run again because another one of the event failed."""
    attempts = []

    def fail_once(event: CloudEvent) -> None:
        attempts.append(event.subject)
        Order.objects.create(number=f"undone {event.subject}")
        if len(attempts) == 1:
            raise RuntimeError("not yet")

    handlers("first", lambda event: Order.objects.create(number=event.subject))
    handlers("second", fail_once)
    publish("a1", "a2", using=local)
    loop = join()
    drain(loop)
    assert statuses(local) == {"a1": "retry", "a2": "blocked"}
    assert "not yet" in row("a1", local).last_error
    assert list(Order.objects.values_list("number", flat=True)) == ["a1"]
    hasten(local)
    drain(loop)
    orders = Order.objects.order_by("id").values_list("number", flat=True)
    assert list(orders) == ["a1", "undone a1", "a2", "undone a2"]
    assert InboxEvent.objects.count() == 4


def test_a_local_handler_that_exits_is_one_that_failed(
    local: str, join: Join, handlers: Callable[..., None]
) -> None:
    """`sys.exit` in a handler ends neither the relay nor the attempts of other events."""

    def leave(event: CloudEvent) -> None:
        if event.subject == "a1":
            raise SystemExit(0)

    handlers("leaver", leave)
    publish("a1", "b1", using=local, max_retries=0)
    drain(join())
    assert statuses(local) == {"a1": "failed", "b1": "published"}
    assert "SystemExit" in row("a1", local).last_error
