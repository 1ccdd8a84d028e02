"""Backends that an operator pauses, and the memory of attempts that failed."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from django.utils import timezone

from django_broadcaster.exceptions import Rejected, TransientError
from django_broadcaster.models import OutboxAttempt, OutboxBackendState
from django_broadcaster.publishers import publisher
from django_broadcaster.relay.loop import DeliveryLoop
from django_broadcaster.store import pause, resume
from tests.support.backends import Script
from tests.support.events import publish, row, statuses
from tests.support.waiting import wait_until

from .conftest import Join, drain, turn, working

if TYPE_CHECKING:
    from pytest_django import Settings


def test_a_paused_backend_delivers_nothing(database: str, scripted: Script, join: Join) -> None:
    """Its events stay pending and spend nothing, and go when it is resumed."""
    states = OutboxBackendState.objects.using(database).all()
    loop = join()
    publish("a1", using=database)
    assert pause(states, "default", "Ada")
    turn(loop)
    assert statuses(database) == {"a1": "pending"}
    assert scripted.batches == []
    assert resume(states, "default")
    drain(loop)
    assert statuses(database) == {"a1": "published"}
    assert row("a1", database).retry_count == 0


def test_an_idle_relay_notices_a_pause_and_its_end(
    database: str, scripted: Script, settings: Settings
) -> None:
    """A relay that has nothing to do looks for it with its one statement."""
    states = OutboxBackendState.objects.using(database).all()
    with working(database):
        publish("a1", using=database)
        wait_until(lambda: scripted.arrived == ["a1"], 10, "a delivery")
        pause(states, "default")
        wait_until(lambda: _looks_paused(states), 10, "the pause")
        publish("b1", using=database)
        resume(states, "default")
        wait_until(lambda: scripted.arrived == ["a1", "b1"], 10, "the delivery after the pause")


def _looks_paused(states: object) -> bool:
    return bool(states.filter(paused_at__isnull=False).exists())  # type: ignore[attr-defined]


def test_a_paused_relay_costs_no_more_than_an_idle_one(
    database: str, scripted: Script, join: Join
) -> None:
    """With events waiting behind a pause a look is one statement, too."""
    loop = join()
    pause(OutboxBackendState.objects.using(database).all(), "default")
    turn(loop)
    loop.rounds.can_skip(loop.owned)  # it learns how many relays there are
    publish("a1", using=database)
    assert loop.rounds.can_skip(loop.owned)
    resume(OutboxBackendState.objects.using(database).all(), "default")
    assert not loop.rounds.can_skip(loop.owned)


def test_other_backends_go_on(database: str, scripted: Script, settings: Settings) -> None:
    """A pause is about one backend."""
    settings.OUTBOX_PUBLISHERS = {
        alias: {"BACKEND": "tests.support.backends.ScriptedBackend"} for alias in ("default", "b")
    }
    pause(OutboxBackendState.objects.using(database).all(), "b")
    publish("a1", using=database, backend="default")
    publish("b1", using=database, backend="b")
    for alias in ("default", "b"):
        with DeliveryLoop(database, alias) as loop:
            drain(loop)
    assert statuses(database) == {"a1": "published", "b1": "pending"}


def test_a_drain_of_a_paused_backend_fails(database: str, scripted: Script) -> None:
    """What a cron job was to deliver is left, so it must not look like success."""
    pause(OutboxBackendState.objects.using(database).all(), "default")
    publish("a1", using=database)
    with working(database, drain=True) as worker:
        worker.end()
    assert worker.succeeded is False


def test_the_callers_own_delivery_is_paused_too(routed: str, scripted: Script) -> None:
    """`process_pending_events` keeps to what the operator said."""
    pause(OutboxBackendState.objects.using(routed).all(), "default")
    publish("a1", using=routed)
    assert publisher.process_pending_events() == 0
    assert statuses(routed) == {"a1": "pending"}


def test_failed_attempts_are_remembered(database: str, scripted: Script, join: Join) -> None:
    """Each with its number, the relay, and the error; an attempt that succeeds leaves none."""
    scripted.fail("a1", TransientError("busy"), times=1)
    scripted.fail("b1", Rejected("never"))
    (event, _) = publish("a1", "b1", using=database)
    loop = join()
    turn(loop)
    event.refresh_from_db()
    event.__class__.objects.using(database).filter(subject="a1").hasten()
    drain(loop)
    found = OutboxAttempt.objects.using(database).order_by("id")
    assert [(each.row - event.pk, each.number, each.error) for each in found] == [
        (0, 1, "TransientError: busy"),
        (1, 1, "Rejected: never"),
    ]
    assert {each.relay for each in found} == {loop.lease.name}
    assert statuses(database) == {"a1": "published", "b1": "failed"}


@pytest.mark.parametrize(("keep", "left"), [(timedelta(days=1), 1), (None, 2)])
def test_old_attempts_are_purged(
    database: str,
    scripted: Script,
    join: Join,
    settings: Settings,
    keep: timedelta | None,
    left: int,
) -> None:
    """The memory is as long as OUTBOX_HISTORY_RETENTION says."""
    settings.OUTBOX_HISTORY_RETENTION = keep
    now = timezone.now()
    for age in (timedelta(days=2), timedelta(hours=1)):
        OutboxAttempt.objects.using(database).create(
            row=1, number=1, attempted_at=now - age, relay="", error=""
        )
    turn(join())
    assert OutboxAttempt.objects.using(database).count() == left
