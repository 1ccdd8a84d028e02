"""One event that looks like an outage, on every database: it stops no other, and is charged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from django_broadcaster.backends import Message, Outcome
from django_broadcaster.exceptions import BackendUnavailable
from django_broadcaster.models import OutboxAttempt, OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.relay import doubts
from django_broadcaster.relay.loop import DeliveryLoop
from tests.support.backends import Script, ScriptedBackend, script
from tests.support.events import key_of, publish, row, statuses
from tests.support.waiting import wait_until

from .conftest import Join, turn

if TYPE_CHECKING:
    from pytest_django import Settings

AWAY = BackendUnavailable("503 Service Unavailable")
WAIT = 20.0


@pytest.fixture(autouse=True)
def _hurry(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probe soon, and let failures count that follow each other fast."""
    settings.OUTBOX_CIRCUIT = {"initial": 0.01, "maximum": 0.05, "probe_size": 3}
    monkeypatch.setattr(doubts, "SPACING_SECONDS", 0.0)


@pytest.fixture
def hasty(settings: Settings, scripted: Script) -> Script:
    """The script of a backend whose retries follow at once."""
    settings.OUTBOX_RETRY = {"initial": 0.001, "maximum": 0.001, "jitter": 0.0}
    return scripted


def at_once(script: Script) -> Any:
    """Return an answer that tries all of a batch, but what is after a failed event of its key."""

    def answer(messages: Sequence[Message]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        failed: dict[str, BackendUnavailable] = {}
        for message in messages:
            error = failed.get(message.partition_key)
            if error is None:
                try:
                    script.accept(message)
                except BackendUnavailable as raised:
                    error = failed[message.partition_key] = raised
            outcomes.append(error)
        return outcomes

    return answer


def attempts(name: str, using: str) -> list[int]:
    """Return the numbers of the attempts of an event that failed, in order."""
    rows = OutboxAttempt.objects.using(using).filter(row=row(name, using).pk).order_by("id")
    return list(rows.values_list("number", flat=True))


def turns_until(loop: DeliveryLoop, is_so: Any, what: str) -> None:
    """Take turns until something is so."""

    def turned() -> bool:
        turn(loop)
        return bool(is_so())

    wait_until(turned, WAIT, what)


@pytest.mark.parametrize("order", ["one by one", "at once"])
def test_one_event_and_all_behind_it_stop_no_other_key(
    database: str, scripted: Script, join: Join, order: str
) -> None:
    """A key whose first event fails like an outage, and that fills every probe, stops no other."""
    scripted.fail("a1", AWAY)
    if order == "at once":
        scripted.answer = at_once(scripted)
    publish(*(f"a{number}" for number in range(1, 30)), using=database)
    loop = join()
    turns_until(loop, lambda: not loop.circuit.is_closed, "the outage")
    others = [f"{key}{number}" for number in (1, 2) for key in "bcdefghijk"]
    publish(*others, using=database)
    turns_until(loop, lambda: set(others) <= set(scripted.arrived), "the events of other keys")
    assert row("a2", database).status in ("pending", "blocked")
    for key in "bcdefghijk":
        assert [name for name in scripted.arrived if key_of(name) == key] == [f"{key}1", f"{key}2"]


@pytest.mark.parametrize("order", ["one by one", "at once"])
def test_an_event_that_fails_alone_spends_its_retries(
    database: str, hasty: Script, join: Join, order: str
) -> None:
    """While others get through it becomes a dead letter with its error; then its key goes on."""
    hasty.fail("a1", AWAY)
    if order == "at once":
        hasty.answer = at_once(hasty)
    publish("a1", "a2", using=database, max_retries=2)
    loop = join()
    numbers = iter(range(10_000))

    def is_over() -> bool:
        publish(f"b{next(numbers)}", using=database)
        return row("a1", database).status == "failed" and "a2" in hasty.arrived

    turns_until(loop, is_over, "the dead letter, and what was behind it")
    event = row("a1", database)
    assert "503 Service Unavailable" in event.last_error
    assert event.retry_count == 2
    assert attempts("a1", database) == [1, 2, 3]
    assert "a1" not in hasty.arrived
    turns_until(loop, lambda: loop.circuit.is_closed, "the circuit to close")


def test_an_event_that_fails_alone_keeps_the_response(
    database: str, hasty: Script, join: Join
) -> None:
    """The error of its dead letter has the beginning of the response, as every other error has."""
    error = BackendUnavailable("503 Service Unavailable")
    error.details = "Took 0.1 s. Response: ledger is locked"
    hasty.fail("a1", error)
    publish("a1", using=database, max_retries=0)
    loop = join()
    numbers = iter(range(10_000))

    def is_over() -> bool:
        publish(f"b{next(numbers)}", using=database)
        return row("a1", database).status == "failed"

    turns_until(loop, is_over, "the dead letter")
    assert "Response: ledger is locked" in row("a1", database).last_error


def test_an_event_alone_in_the_outbox_waits(database: str, scripted: Script, join: Join) -> None:
    """Where nothing gets through the backend is away: nothing is spent, whatever the number."""
    scripted.fail("*", AWAY)
    names = ["a1", "a2", "b1", "-1", "-2", "c1", "d1"]
    publish(*names, using=database, max_retries=0)
    loop = join()
    turns_until(loop, lambda: len(scripted.batches) > 20, "probes")
    untouched = OutboxEvent.objects.using(database).filter(
        status="pending", retry_count=0, last_error=""
    )
    assert untouched.count() == len(names)
    for batch in scripted.batches[1:]:
        assert len(batch) <= 3
        keys = [key_of(name) for name in batch if key_of(name)]
        assert len(set(keys)) == len(keys), "a probe has one event of a key"
    tried = {batch[0] for batch in scripted.batches}
    assert tried == {"a1", "b1", "-1", "-2", "c1", "d1"}, "each key's first event has its turn"
    scripted.heal()
    turns_until(loop, lambda: len(scripted.arrived) == len(names), "all events")
    assert {event.retry_count for event in OutboxEvent.objects.using(database)} == {0}


def test_an_outage_between_two_deliveries_costs_nothing(
    database: str, scripted: Script, join: Join
) -> None:
    """A broker that is away for a moment, again and again, spends no retry of any event."""
    loop = join()
    for number in range(10):
        names = [f"{key}{number}" for key in "abcd"]
        publish(*names, using=database, max_retries=0)
        scripted.fail(names[number % 4], AWAY, times=2)
        turns_until(loop, lambda names=names: set(names) <= set(scripted.arrived), "the round")
    assert set(statuses(database).values()) == {"published"}
    assert not OutboxEvent.objects.using(database).filter(retry_count__gt=0).exists()


def test_a_part_of_a_broker_that_is_away_costs_nothing(
    database: str, hasty: Script, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a broker of several parts, several events that fail alone wait and spend no retry."""
    monkeypatch.setattr(ScriptedBackend, "may_be_away_in_part", True)
    loop = join()
    lost = ["a1", "b1", "c1", "d1"]
    for name in lost:
        hasty.fail(name, AWAY)
    publish(*lost, using=database, max_retries=0)
    numbers = iter(range(10_000))

    def were_put_off() -> bool:
        publish(f"x{next(numbers)}", using=database)
        return all(len(attempts(name, database)) > 2 for name in lost)

    turns_until(loop, were_put_off, "all of the part to be put off")
    assert {row(name, database).retry_count for name in lost} == {0}
    hasty.heal()
    turns_until(loop, lambda: set(lost) <= set(hasty.arrived), "the part")


def test_many_events_that_fail_alone_are_all_given_up(
    database: str, hasty: Script, join: Join
) -> None:
    """Every event that a broker answers like an outage is a dead letter, and all others arrive."""
    bad = [f"{key}1" for key in "aceg"] + ["-3"]
    for name in bad:
        hasty.fail(name, AWAY)
    publish(*bad, *(f"{key}1" for key in "bdfh"), using=database, max_retries=1)
    numbers = iter(range(10_000))
    loop = join()

    def is_over() -> bool:
        publish(f"x{next(numbers)}", using=database)
        return all(row(name, database).status == "failed" for name in bad)

    turns_until(loop, is_over, "the dead letters")
    assert {"b1", "d1", "f1", "h1"} <= set(hasty.arrived)


def test_who_delivers_in_passing_is_not_stopped_by_one_event(routed: str, scripted: Script) -> None:
    """`process_pending_events` delivers the others where the first event looks like an outage."""
    script().fail("a1", AWAY)
    publish("a1", *(f"a{number}" for number in range(2, 8)), "b1", "c1", using=routed)
    publisher.process_pending_events()
    assert set(scripted.arrived) == {"b1", "c1"}


def test_an_event_that_fails_alone_has_one_verdict(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """If it has expired as the batch with its last strike is sent, it is not retried as well."""
    settings.OUTBOX_CIRCUIT = {"initial": 1e-9, "maximum": 1e-9, "probe_size": 3}
    scripted.fail("a1", AWAY)
    (event,) = publish("a1", using=database)
    loop = join()
    for number in range(1, doubts.STRIKES):
        assert turn(loop).unavailable
        publish(f"b{number}", using=database)
        assert turn(loop).published
    publish("c1", using=database)
    expired = {"expirytime": "2020-01-01T00:00:00Z"}
    OutboxEvent.objects.using(database).filter(pk=event.pk).update(extensions=expired)
    report = turn(loop)
    assert (report.published, report.expired, report.retried, report.left) == (1, 1, 0, 0)
    assert row("a1", database).status == "cancelled"
