"""How long an event waits when its destination says so, and what that costs it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from django.utils import timezone

from django_broadcaster.exceptions import BackendUnavailable, TransientError
from django_broadcaster.models import OutboxEvent
from django_broadcaster.relay import postponed
from django_broadcaster.signals import event_retried
from tests.support.backends import Script
from tests.support.events import publish, row, statuses

from .conftest import SCRIPTED, Join, drain, turn
from .destinations import LAST, NAMES, away, is_postponed

if TYPE_CHECKING:
    from pytest_django import Settings


def test_destination_that_wants_a_longer_pause_gets_it(
    database: str, scripted: Script, join: Join
) -> None:
    """The pause is the longer one of the policy's and the one that was asked for."""
    scripted.fail("a1", TransientError("busy", retry_after=60), times=1)
    scripted.fail("b1", TransientError("busy", retry_after=0.01), times=1)
    publish("a1", "b1", using=database)
    before = timezone.now()
    turn(join())
    after = timezone.now()
    leeway = timedelta(seconds=0.9)  # the relay's estimate of the database's clock
    for name, seconds in (("a1", 60), ("b1", 1)):
        wait = timedelta(seconds=seconds)
        assert before + wait - leeway < row(name, database).scheduled_at < after + wait + leeway


def test_event_that_is_not_to_blame_keeps_its_retries(
    database: str, scripted: Script, join: Join
) -> None:
    """However often it is put off, no retry is spent; its key waits, and goes on in order."""
    scripted.fail("a1", TransientError("away", spends_retry=False), times=5)
    scripted.fail("b1", TransientError("busy"), times=1)
    publish("a1", "a2", "b1", using=database, max_retries=1)
    loop = join()
    for _ in range(5):
        turn(loop)
        assert statuses(database)["a1"] == "retry"
        assert OutboxEvent.objects.using(database).hasten()
    drain(loop)
    assert scripted.arrived == ["b1", "a1", "a2"]
    assert {name: row(name, database).retry_count for name in ("a1", "a2", "b1")} == {
        "a1": 0,
        "a2": 0,
        "b1": 1,
    }


def test_event_that_was_put_off_is_announced_with_its_retries(
    database: str, scripted: Script, join: Join
) -> None:
    """The signal shows the count that the database has."""
    heard: list[int] = []

    def listen(event: OutboxEvent, **_: object) -> None:
        heard.append(event.retry_count)

    event_retried.connect(listen)
    try:
        scripted.fail("a1", TransientError("away", spends_retry=False))
        publish("a1", using=database)
        turn(join())
    finally:
        event_retried.disconnect(listen)
    assert heard == [row("a1", database).retry_count] == [0]


def test_event_that_blocks_its_key_when_exhausted_is_put_off_for_no_longer(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """With ON_EXHAUSTED = "block" an event without retries is put off as any other."""
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": SCRIPTED, "ON_EXHAUSTED": "block"}}
    scripted.fail("a1", TransientError("away", spends_retry=False))
    publish("a1", using=database, max_retries=0)
    before = timezone.now()
    turn(join())
    event = row("a1", database)
    assert event.status == "retry"
    assert event.scheduled_at < before + timedelta(seconds=30)


def test_broker_that_wants_a_longer_pause_gets_it(
    database: str, scripted: Script, join: Join
) -> None:
    """The circuit stays open for at least as long as the broker asked for."""
    scripted.fail("*", BackendUnavailable("overloaded", retry_after=60))
    publish("a1", using=database)
    loop = join()
    turn(loop)
    assert 50 < loop.circuit.seconds_left() <= 60
    assert not turn(loop).attempted
    event = row("a1", database)
    assert (event.status, event.retry_count) == ("pending", 0)


def test_events_are_due_at_once_if_a_settle_failed_when_their_destination_returned(
    database: str, scripted: Script, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delivery that was settled late has the same effect as one that was settled in time."""
    for name in NAMES:
        scripted.fail(name, away(), times=1)
    publish(*NAMES, using=database)
    loop = join()
    turn(loop)
    assert is_postponed(LAST, database)
    publish("a1", using=database)
    scripted.returned = {"x"}
    with monkeypatch.context() as patch:
        patch.setattr(loop.owned.rows, "mark_published", _fail)
        with pytest.raises(OSError, match="disk"):
            turn(loop)
    drain(loop)
    assert row(LAST, database).status == "published"


def _fail(*_: object, **__: object) -> int:
    raise OSError("disk full")


def test_event_that_is_put_off_again_and_again_is_remembered_once(
    database: str, scripted: Script, join: Join
) -> None:
    """The ids of events that became due are forgotten, so that there is room for others."""
    for name in NAMES:
        scripted.fail(name, away())
    publish(*NAMES, using=database)
    loop = join()
    left_out = len(NAMES) - postponed.PROBES
    for _ in range(3):
        OutboxEvent.objects.using(database).filter(status="retry").hasten()
        turn(loop)
        assert loop.owned.postponed.has_room_for(postponed.MOST - left_out)
        assert not loop.owned.postponed.has_room_for(postponed.MOST - left_out + 1)


def test_destination_that_returned_shortens_no_pause_in_partitions_of_another_relay(
    database: str, scripted: Script, join: Join
) -> None:
    """The relay that was given a partition decides when its events are due."""
    for name in NAMES:
        scripted.fail(name, away())
    publish(*NAMES, using=database)
    loop = join()
    turn(loop)
    loop.lease.partitions -= {row(LAST, database).partition}
    scripted.returned = {"x"}
    loop.settle_earlier()
    assert is_postponed(LAST, database)


def test_destination_that_returned_shortens_no_pause_of_an_event_that_was_sent_since(
    database: str, scripted: Script, join: Join
) -> None:
    """An event that became due and failed by itself waits as long as its retry policy says."""
    for name in NAMES:
        scripted.fail(name, away(), times=1)
    publish(*NAMES, using=database)
    loop = join()
    turn(loop)
    assert is_postponed(LAST, database)
    scripted.fail(LAST, TransientError("busy", retry_after=600), times=1)
    OutboxEvent.objects.using(database).filter(subject=LAST).hasten()
    turn(loop)
    scripted.returned = {"x"}
    loop.settle_earlier()
    assert is_postponed(LAST, database)
