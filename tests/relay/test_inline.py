"""Deliveries in the caller's own process: `process_pending_events` and its kin."""

from __future__ import annotations

import time
import unittest
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from django.db import connections, transaction
from django.test import TestCase
from django.utils import timezone

from django_broadcaster.backends import Message
from django_broadcaster.exceptions import (
    BackendUnavailable,
    Rejected,
    TransientError,
    WrongTransaction,
)
from django_broadcaster.models import OutboxEvent, OutboxPartition, OutboxRelay
from django_broadcaster.publishers import publisher
from django_broadcaster.relay import inline
from django_broadcaster.relay.loop import DeliveryLoop
from tests.support.backends import Script, ScriptedBackend, script
from tests.support.databases import SERVERS
from tests.support.events import publish, row, statuses
from tests.support.waiting import wait_until

from .conftest import SCRIPTED, Join, drain, turn

if TYPE_CHECKING:
    from pytest_django import Settings


def test_pending_events_are_delivered_here_and_now(routed: str, scripted: Script) -> None:
    """It delivers in order, counts what it attempted, and leaves no relay behind."""
    publish("a1", "b1", "a2", using=routed)
    assert publisher.process_pending_events() == 3
    assert scripted.arrived == ["a1", "b1", "a2"]
    assert set(statuses(routed).values()) == {"published"}
    assert publisher.process_pending_events() == 0
    assert not OutboxRelay.objects.using(routed).exists()
    assert not OutboxPartition.objects.using(routed).filter(relay__isnull=False).exists()


def test_no_more_than_the_batch_size_is_attempted(routed: str, scripted: Script) -> None:
    """Each call takes up to `batch_size` events, the oldest first."""
    publish(*(f"a{number}" for number in range(1, 8)), using=routed)
    counts = [publisher.process_pending_events(batch_size=3) for _ in range(4)]
    assert counts == [3, 3, 1, 0]
    assert scripted.arrived == [f"a{number}" for number in range(1, 8)]


def test_many_are_delivered_in_batches_that_a_database_takes(
    routed: str, scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite may take 32,766 parameters in a statement, and whoever calls may ask for more."""
    monkeypatch.setattr(inline, "MOST", 2)
    publish(*(f"a{number}" for number in range(5)), using=routed)
    assert publisher.process_pending_events(50_000) == 5
    assert [len(batch) for batch in scripted.batches] == [2, 2, 1]


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_has_at_least_one_event(routed: str, scripted: Script, batch_size: int) -> None:
    """A batch size below 1 is an error, not a call that does nothing."""
    with pytest.raises(ValueError, match="batch_size"):
        publisher.process_pending_events(batch_size)


def test_every_backend_gets_its_own(routed: str, scripted: Script, settings: Settings) -> None:
    """All backends are served, and one that is away does not keep the others waiting."""
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": SCRIPTED},
        "other": {"BACKEND": SCRIPTED},
    }
    script("default").fail("*", BackendUnavailable("away"))
    publish("a1", using=routed, backend="default")
    publish("b1", using=routed, backend="other")
    assert publisher.process_pending_events() == 2
    assert script("other").arrived == ["b1"]
    assert statuses(routed) == {"a1": "pending", "b1": "published"}


@pytest.fixture
def by_hand(scripted: Script) -> Iterator[ScriptedBackend]:
    """A backend that the project has made itself."""
    backend = ScriptedBackend(alias="default")
    publisher._backends["default"] = backend
    yield backend
    del publisher._backends["default"]


def test_what_was_put_in_by_hand_stays_open(
    routed: str, scripted: Script, by_hand: ScriptedBackend, join: Join
) -> None:
    """A delivery in the process does not close it, as a relay may use it; a relay's end does."""
    closed: list[str] = []
    loop = join()
    loop.turn(1)
    scripted.on_close = lambda: closed.append("closed")
    (event,) = publish("a1", using=routed)
    loop.lease.leave()
    assert publisher.process_pending_events() == 1
    publisher._process_single_event(event)
    assert (scripted.arrived, closed) == (["a1"], [])
    loop.broker.close()
    assert closed == ["closed"]


def test_what_was_put_in_by_hand_does_one_thing_at_a_time(
    routed: str, scripted: Script, by_hand: ScriptedBackend, settings: Settings
) -> None:
    """A call that comes while another one delivers waits for its turn to open the backend."""
    settings.OUTBOX_LEASE_SECONDS = 2
    order: list[str] = []
    relays = OutboxRelay.objects.using(routed)

    def call() -> int:
        try:
            return publisher.process_pending_events()
        finally:
            connections.close_all()

    def deliver(messages: Sequence[Message]) -> list[None]:
        watched_by = by_hand.on_progress
        wait_until(lambda: relays.count() == 2, 20, "the other call")
        second = relays.order_by("-pk")[0]
        later = relays.filter(pk=second.pk, heartbeat_at__gt=second.heartbeat_at)
        wait_until(lambda: later.exists(), 20, "its heartbeat, while it waits")
        assert by_hand.on_progress == watched_by
        order.append("sent")
        return [None] * len(messages)

    scripted.on_open = lambda: order.append("opened")
    scripted.answer = deliver  # type: ignore[assignment]
    publish("a1", using=routed)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(call)
        wait_until(lambda: scripted.batches, 20, "the delivery")
        other = threads.submit(call)
        assert (first.result(60), other.result(60)) == (1, 0)
    assert order == ["opened", "sent", "opened"]


def test_failures_count_as_attempts(routed: str, scripted: Script) -> None:
    """What failed was attempted too, and is not tried again by the same call."""
    scripted.fail("a1", TransientError("busy"))
    scripted.fail("b1", Rejected("no"))
    publish("a1", "a2", "b1", using=routed)
    assert publisher.process_pending_events() == 3
    assert statuses(routed) == {"a1": "retry", "a2": "blocked", "b1": "failed"}


def test_it_refuses_to_run_in_a_transaction(routed: str, scripted: Script) -> None:
    """What has not committed must not be delivered."""
    with transaction.atomic(using=routed):
        (event,) = publish("a1", using=routed)
        with pytest.raises(RuntimeError, match=r"inside transaction\.atomic"):
            publisher.process_pending_events()
        with pytest.raises(RuntimeError, match=r"inside transaction\.atomic"):
            publisher._process_single_event(event)
    assert scripted.arrived == []


def test_it_refuses_to_run_in_a_transaction_of_another_database(
    routed: str, scripted: Script
) -> None:
    """What a handler changes there could be rolled back, and its event stay published."""
    others = [alias for alias in connections if alias != routed]
    if not others:
        pytest.skip("needs two databases")
    (event,) = publish("a1", using=routed)
    with transaction.atomic(using=others[0]):
        for deliver in (
            publisher.process_pending_events,
            lambda: publisher._process_single_event(event),
        ):
            with pytest.raises(WrongTransaction, match=f"'{others[0]}'"):
                deliver()
    assert scripted.arrived == []
    assert publisher.process_pending_events() == 1


def test_it_refuses_to_run_without_autocommit(routed: str, scripted: Script) -> None:
    """Without autocommit a transaction is always open, and nothing would be committed."""
    publish("a1", using=routed)
    transaction.set_autocommit(False, using=routed)
    try:
        with pytest.raises(RuntimeError, match="autocommit is off"):
            publisher.process_pending_events()
    finally:
        transaction.set_autocommit(True, using=routed)
    assert scripted.arrived == []


class InTestCase(TestCase):
    """A test of an application's, that has the transaction of a TestCase around it."""

    databases = "__all__"
    database = "default"

    def test_delivery(self) -> None:
        """Publish and deliver."""
        publish("a1", "a2", using=self.database)
        assert publisher.process_pending_events() == 2
        (event,) = publish("a3", using=self.database)
        assert publisher._process_single_event(event)
        with transaction.atomic(using=self.database), pytest.raises(RuntimeError):
            publisher.process_pending_events()


InTestCase.__test__ = False  # it runs below, on each database


def test_it_works_in_a_test_case(routed: str, scripted: Script) -> None:
    """In the transaction of a TestCase it delivers, and nothing of it stays."""
    InTestCase.database = routed
    result = unittest.TestResult()
    unittest.TestSuite([InTestCase("test_delivery")]).run(result)
    assert (result.testsRun, result.errors, result.failures) == (1, [], [])
    assert scripted.arrived == ["a1", "a2", "a3"]
    assert not OutboxEvent.objects.using(routed).exists()


def test_what_a_relay_owns_is_left_to_it(routed: str, scripted: Script, join: Join) -> None:
    """While a relay runs, a visitor finds nothing that is free."""
    turn(join())
    (event,) = publish("a1", using=routed)
    assert publisher.process_pending_events() == 0
    assert not publisher._process_single_event(event)
    assert scripted.arrived == []


@pytest.mark.parametrize("single", [False, True], ids=["many", "one"])
def test_a_call_keeps_its_lease_however_long_it_takes(
    routed: str, scripted: Script, settings: Settings, single: bool
) -> None:
    """A batch that takes longer than the lease is settled by its caller, and sent once."""
    settings.OUTBOX_LEASE_SECONDS = 0.8
    lease = OutboxRelay.objects.using(routed)

    def beats() -> datetime:
        return lease.values_list("heartbeat_at", flat=True).get()

    def dawdle(messages: Sequence[Message]) -> list[None]:
        began = beats()
        wait_until(lambda: beats() - began > timedelta(seconds=1.6), 20, "heartbeats")
        with DeliveryLoop(routed, "default") as relay:
            for _ in range(3):
                turn(relay)
        scripted.arrived += [message.subject for message in messages]
        return [None] * len(messages)

    scripted.answer = dawdle
    (event,) = publish("a1", using=routed)
    if single:
        assert publisher._process_single_event(event) is True
    else:
        assert publisher.process_pending_events() == 1
    assert scripted.arrived == ["a1"]
    assert (row("a1", routed).status, row("a1", routed).crash_count) == ("published", 0)
    assert not lease.exists()


@pytest.mark.parametrize("single", [False, True], ids=["many", "one"])
@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_a_session_that_ends_before_the_settle_costs_nothing(
    routed: str, scripted: Script, single: bool
) -> None:
    """What the broker has acknowledged is written down on a new session, and not sent again."""

    def cut(messages: Sequence[Message]) -> list[None]:
        end_session(routed)
        scripted.arrived += [message.subject for message in messages]
        return [None] * len(messages)

    scripted.answer = cut
    (event,) = publish("a1", using=routed)
    if single:
        assert publisher._process_single_event(event) is True
    else:
        assert publisher.process_pending_events() == 1
    assert statuses(routed) == {"a1": "published"}
    assert publisher.process_pending_events() == 0
    assert scripted.arrived == ["a1"]
    assert not OutboxRelay.objects.using(routed).exists()


def end_session(database: str) -> None:
    """End the session of this thread, as an administrator would."""
    own, end = {
        "postgresql": ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend(%s, 5000)"),
        "mysql": ("SELECT CONNECTION_ID()", "KILL CONNECTION %s"),
    }[connections[database].vendor]
    with connections[database].cursor() as cursor:
        cursor.execute(own)
        (number,) = cursor.fetchone()
    with closing(connections[database].copy()) as other, other.cursor() as cursor:
        cursor.execute(end, [number])


def test_a_slow_delivery_is_finished(routed: str, scripted: Script, settings: Settings) -> None:
    """A visitor whose batch took longer than a lease goes on if nobody minded."""
    settings.OUTBOX_LEASE_SECONDS = 0.05

    def dawdle(messages: Sequence[Message]) -> list[None]:
        time.sleep(0.1)
        return [None] * len(messages)

    scripted.answer = dawdle
    publish("a1", "a2", "a3", using=routed)
    with DeliveryLoop(routed, "default", takes_share=False) as loop:
        assert [loop.turn(1).published for _ in range(4)] == [1, 1, 1, 0]


def test_a_visitor_that_was_too_slow_stops(routed: str, scripted: Script) -> None:
    """A visitor that a relay took over from starts nothing more, and does not raise."""

    def overtaken(messages: Sequence[Message]) -> list[None]:
        OutboxRelay.objects.using(routed).update(heartbeat_at=timezone.now() - timedelta(hours=1))
        scripted.answer = None
        with DeliveryLoop(routed, "default") as relay:
            drain(relay)
        return [None] * len(messages)

    scripted.answer = overtaken
    (event, _) = publish("a1", "b1", using=routed)
    assert publisher.process_pending_events(batch_size=1) == 0
    assert statuses(routed) == {"a1": "published", "b1": "published"}
    OutboxEvent.objects.using(routed).update(status="pending")
    scripted.answer = overtaken
    assert not publisher._process_single_event(event)


# One event


def test_a_single_event_is_delivered(routed: str, scripted: Script) -> None:
    """It says True for the event that was acknowledged, and delivers no other."""
    first, second, _ = publish("a1", "b1", "c1", using=routed)
    assert publisher._process_single_event(second) is True
    assert scripted.arrived == ["b1"]
    assert publisher._process_single_event(first) is True
    assert scripted.arrived == ["b1", "a1"]
    assert row("c1", routed).status == "pending"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TransientError("busy"), "retry"),
        (Rejected("no"), "failed"),
        (BackendUnavailable("away"), "pending"),
    ],
)
def test_a_failed_attempt_is_false(
    routed: str, scripted: Script, error: Exception, status: str
) -> None:
    """It says False for an attempt that failed, and the event is where a relay would put it."""
    scripted.fail("a1", error)
    (event,) = publish("a1", using=routed)
    assert publisher._process_single_event(event) is False
    assert row("a1", routed).status == status


@pytest.mark.parametrize("status", ["published", "failed", "cancelled", "scheduled"])
def test_only_a_pending_event_is_delivered(routed: str, scripted: Script, status: str) -> None:
    """It says False for an event in another status, and sends neither it nor the next one."""
    event, _ = publish("a1", "b1", using=routed)
    later = timezone.now() + timedelta(hours=1)
    OutboxEvent.objects.using(routed).filter(pk=event.pk).update(status=status, scheduled_at=later)
    assert publisher._process_single_event(event) is False
    assert scripted.batches == []


def test_no_other_event_takes_the_place_of_one_that_went(
    routed: str, scripted: Script, join: Join
) -> None:
    """An event that is cancelled right before its delivery is not replaced by the next one."""
    event, _ = publish("a1", "a2", using=routed)
    loop = join(takes_share=False)
    loop.do_rounds()
    OutboxEvent.objects.using(routed).filter(pk=event.pk).cancel()
    assert loop.deliver_only(event.pk, event.partition).published == 0
    assert scripted.arrived == []


@pytest.mark.parametrize("status", ["pending", "retry", "blocked", "scheduled"])
def test_an_event_does_not_overtake_its_key(routed: str, scripted: Script, status: str) -> None:
    """It says False as long as an earlier event of the key is undelivered."""
    first, second = publish("a1", "a2", using=routed)
    later = timezone.now() + timedelta(hours=1)
    OutboxEvent.objects.using(routed).filter(pk=first.pk).update(status=status, scheduled_at=later)
    if status == "blocked":  # behind something, or it would be let go
        (zero,) = publish("a0", using=routed)
        OutboxEvent.objects.using(routed).filter(pk=zero.pk).update(
            status="retry", scheduled_at=later
        )
    assert publisher._process_single_event(second) is False
    assert scripted.batches == []


def test_an_event_whose_retry_is_due_is_delivered(routed: str, scripted: Script) -> None:
    """An event in retry is delivered once it is due, and not before."""
    scripted.fail("a1", TransientError("busy"), times=1)
    (event,) = publish("a1", using=routed)
    assert publisher._process_single_event(event) is False
    assert publisher._process_single_event(event) is False
    OutboxEvent.objects.using(routed).hasten()
    assert publisher._process_single_event(event) is True
