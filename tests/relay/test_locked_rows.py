"""A transaction of somebody else holds locks on events while relays deliver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from django.db import connections
from django.utils import timezone

from django_broadcaster.exceptions import TransientError
from django_broadcaster.models import OutboxEvent, OutboxOperation, OutboxRelay
from django_broadcaster.publishers import publisher
from django_broadcaster.relay import locked, owned
from django_broadcaster.relay.lease import Lease
from django_broadcaster.relay.operations import Operations
from django_broadcaster.store import relay_sql
from tests.support.backends import Script
from tests.support.databases import SERVERS
from tests.support.events import publish, row, statuses
from tests.support.operations import request, step, work_off
from tests.support.waiting import wait_until
from tests.support.workers import Workers

from .conftest import Join, Stream, drain, turn
from .destinations import LAST, NAMES, away, is_postponed
from .test_fencing import limited_waiting

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.parametrize("database", SERVERS, indirect=True)

REDIS = "django_broadcaster.backends.RedisStreamBackend"


class Holder:
    """A session that changes events in a transaction, and keeps that open."""

    def __init__(self, database: str) -> None:
        self._connection = connections[database].copy()

    def change(self, names: list[str], status: str = "cancelled") -> None:
        """Change the status of events, as an operator's transaction does before its commit."""
        self._connection.set_autocommit(False)
        with self._connection.cursor() as cursor:
            for name in names:
                cursor.execute(
                    "UPDATE django_broadcaster_outboxevent "
                    "SET status = %s, ended_at = created_at WHERE subject = %s",
                    [status, name],
                )

    def commit(self) -> None:
        """End it, and keep the changes."""
        self._connection.commit()

    def rollback(self) -> None:
        """End it without a change."""
        self._connection.rollback()


@pytest.fixture
def holder(database: str) -> Iterator[Holder]:
    """A session beside those of the relay."""
    holder = Holder(database)
    with closing(holder._connection), limited_waiting(database):
        yield holder


@pytest.fixture(autouse=True)
def _prompt(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no lock for long; MariaDB counts in whole seconds."""
    monkeypatch.setattr(locked, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(owned, "HASTEN_SECONDS", 0.0)
    seconds = 0.05 if connections[database].vendor == "postgresql" else 0
    monkeypatch.setattr(relay_sql, "LOCK_SECONDS", seconds)


@pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])
@pytest.mark.parametrize("keep", [True, False], ids=["kept", "deleted"])
def test_a_locked_event_holds_up_no_other(
    database: str,
    scripted: Script,
    join: Join,
    holder: Holder,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    commits: bool,
    keep: bool,
) -> None:
    """The others are settled, nothing is sent twice, and the operator's commit counts."""
    settings.OUTBOX_RETENTION = timedelta(days=1) if keep else 0
    publish("v1", "a1", "v2", "b1", using=database)
    holder.change(["v1"])
    loop = join()
    drain(loop)
    publish("c1", "v3", using=database)
    drain(loop)
    assert scripted.arrived == ["v1", "a1", "v2", "b1", "c1", "v3"]
    settled = "published" if keep else None
    assert {statuses(database).get(name) for name in ("a1", "v2", "b1", "c1", "v3")} == {settled}
    assert row("v1", database).status == "pending"
    assert "another transaction has locked their rows" in caplog.text
    holder.commit() if commits else holder.rollback()
    drain(loop)
    assert statuses(database).get("v1") == ("cancelled" if commits else settled)
    assert scripted.arrived.count("v1") == 1


def test_a_locked_event_that_failed_keeps_its_place(
    database: str, scripted: Script, join: Join, holder: Holder
) -> None:
    """What follows it in its key waits, and other keys go on; a rollback lets it be retried."""
    scripted.fail("a1", TransientError("busy"), times=1)
    publish("a1", "a2", "b1", using=database)
    holder.change(["a1"])
    loop = join()
    drain(loop)
    publish("a3", "b2", using=database)
    for _ in range(3):
        turn(loop)
    assert scripted.arrived == ["b1", "b2"]
    holder.rollback()
    turn(loop)
    assert statuses(database)["a1"] == "retry"
    OutboxEvent.objects.using(database).hasten()
    drain(loop)
    assert scripted.arrived == ["b1", "b2", "a1", "a2", "a3"]


def test_a_locked_event_that_is_cancelled_lets_its_key_go_on(
    database: str, scripted: Script, join: Join, holder: Holder
) -> None:
    """The events behind one that failed and is then cancelled are delivered in order."""
    scripted.fail("a1", TransientError("busy"))
    publish("a1", "a2", "b1", using=database)
    holder.change(["a1"])
    loop = join()
    drain(loop)
    assert scripted.arrived == ["b1"]
    holder.commit()
    publish("a3", using=database)
    drain(loop)
    assert scripted.arrived == ["b1", "a2", "a3"]


def test_a_locked_follower_is_not_overtaken(
    database: str, scripted: Script, join: Join, holder: Holder
) -> None:
    """Behind an event in retry a locked one waits, and what follows it waits too."""
    scripted.fail("a1", TransientError("busy"), times=1)
    publish("a1", "a2", "a3", using=database)
    loop = join()
    holder.change(["a2"])
    drain(loop)
    OutboxEvent.objects.using(database).filter(subject="a1").hasten()
    for _ in range(4):
        turn(loop)
    assert scripted.arrived == ["a1"]
    holder.rollback()
    drain(loop)
    assert scripted.arrived == ["a1", "a2", "a3"]


def test_a_locked_blocked_event_is_not_overtaken(
    database: str, scripted: Script, join: Join, holder: Holder
) -> None:
    """A key that becomes free goes on up to the event that is locked, and no further."""
    scripted.fail("a1", TransientError("busy"), times=1)
    publish("a1", "a2", "a3", "a4", using=database)
    loop = join()
    drain(loop)
    assert statuses(database)["a3"] == "blocked"
    holder.change(["a3"])
    OutboxEvent.objects.using(database).hasten()
    for _ in range(4):
        turn(loop)
    assert scripted.arrived == ["a1", "a2"]
    holder.rollback()
    drain(loop)
    assert scripted.arrived == ["a1", "a2", "a3", "a4"]


def test_locked_retries_hold_up_no_other(
    database: str, scripted: Script, join: Join, holder: Holder
) -> None:
    """Events that are due are promoted past those that somebody has locked."""
    scripted.fail("*", TransientError("busy"), times=0)
    names = [f"{key}1" for key in "abcdef"]
    for name in names:
        scripted.fail(name, TransientError("busy"), times=1)
    publish(*names, using=database)
    loop = join()
    drain(loop)
    past = timezone.now() - timedelta(minutes=1)
    OutboxEvent.objects.using(database).filter(subject__in=names).update(scheduled_at=past)
    holder.change(names[:3])
    drain(loop)
    assert sorted(scripted.arrived) == names[3:]
    holder.rollback()
    OutboxEvent.objects.using(database).hasten()
    drain(loop)
    assert sorted(scripted.arrived) == names


def test_more_locked_events_than_a_batch_has(
    database: str, scripted: Script, join: Join, holder: Holder
) -> None:
    """A fetch looks past all that is locked."""
    names = [f"v{number}" for number in range(12)]
    publish(*names, "a1", using=database)
    holder.change(names)
    loop = join()
    for _ in range(8):
        turn(loop, 5)
    assert statuses(database)["a1"] == "published"
    assert scripted.arrived == [*names, "a1"]
    holder.commit()
    drain(loop)
    assert {statuses(database)[name] for name in names} == {"cancelled"}


def test_a_dead_relay_is_replaced_while_its_event_is_locked(
    database: str, holder: Holder, committing: None
) -> None:
    """A take-over leaves out the crash of an event that somebody has locked."""
    publish("a1", "b1", using=database)
    dead, alive = Lease(database, "default"), Lease(database, "default")
    for lease in (dead, alive):
        lease.join()
    dead.rebalance()
    dead.begin_delivery(range(row("a1", database).pk, row("b1", database).pk + 1))
    OutboxRelay.objects.using(database).filter(pk=dead.id).update(
        heartbeat_at=timezone.now() - timedelta(hours=1)
    )
    holder.change(["a1"])
    alive.rebalance()
    assert not OutboxRelay.objects.using(database).filter(pk=dead.id).exists()
    assert [row(name, database).crash_count for name in ("a1", "b1")] in ([0, 0], [0, 1])
    alive.leave()


def test_a_caller_waits_for_the_lock_instead_of_delivering_twice(
    routed: str, scripted: Script, holder: Holder, settings: Settings
) -> None:
    """`process_pending_events` ends within its bound, and what stays locked comes again later."""
    settings.OUTBOX_SHUTDOWN_TIMEOUT = 0.3
    publish("v1", "a1", using=routed)
    holder.change(["v1"])
    assert publisher.process_pending_events() == 2
    assert statuses(routed) == {"v1": "pending", "a1": "published"}
    holder.rollback()
    assert publisher.process_pending_events() == 1
    assert statuses(routed)["v1"] == "published"


def test_an_operation_moves_what_is_before_a_locked_event(
    database: str, scripted: Script, holder: Holder
) -> None:
    """It says which event is locked, tries again, and moves each event once."""
    names = ["a1", "b1", "c1", "d1"]
    publish(*names, using=database)
    OutboxEvent.objects.using(database).update(status="failed")
    holder.change(["c1"], status="failed")
    operation = request("replay", database)
    relay = Operations(database)
    assert step(relay)
    assert [statuses(database)[name] for name in names] == ["scheduled"] * 2 + ["failed"] * 2
    assert not step(relay)
    operation.refresh_from_db()
    assert f"locked event {row('c1', database).pk}" in operation.error
    holder.rollback()
    OutboxOperation.objects.using(database).update(not_before=None)
    work_off(database)
    operation.refresh_from_db()
    assert (operation.state, operation.done) == ("done", 4)
    assert set(statuses(database).values()) == {"scheduled"}


def test_a_worker_goes_on_past_a_locked_event(
    database: str,
    stream: Stream,
    workers: Workers,
    holder: Holder,
) -> None:
    """With the times of an installation, what is published later is delivered and settled."""
    publish("v1", "a1", using=database)
    holder.change(["v1"])
    worker = workers.start(database, OUTBOX_PUBLISHERS=stream.publishers(REDIS))
    wait_until(lambda: statuses(database)["a1"] == "published", 20, "the delivery of the other")
    publish("b1", using=database)
    wait_until(lambda: statuses(database)["b1"] == "published", 20, "a later delivery")
    assert "another transaction has locked their rows" in worker.output
    holder.commit()
    assert statuses(database)["v1"] == "cancelled"
    worker.stop()
    assert worker.end() == 0
    assert sorted(stream.names()) == ["a1", "b1", "v1"]


def test_an_event_that_was_locked_when_its_destination_returned_is_due_at_once(
    database: str, scripted: Script, join: Join, holder: Holder
) -> None:
    """It is sent as soon as the lock is gone, though nothing else was to be delivered."""
    for name in NAMES:
        scripted.fail(name, away(), times=1)
    publish(*NAMES, using=database)
    loop = join()
    drain(loop)
    assert is_postponed(LAST, database)
    holder.change([LAST])
    scripted.returned = {"x"}
    drain(loop)
    assert LAST not in scripted.arrived
    holder.rollback()
    drain(loop)
    assert row(LAST, database).status == "published"


def test_an_event_whose_delay_was_not_written_yet_is_due_at_once(
    database: str, scripted: Script, join: Join, holder: Holder
) -> None:
    """It was locked when its failure was to be settled, and its destination returned meanwhile."""
    for name in NAMES:
        scripted.fail(name, away(), times=1)
    publish(*NAMES, using=database)
    holder.change([LAST])
    loop = join()
    drain(loop)
    scripted.returned = {"x"}
    drain(loop)
    holder.rollback()
    drain(loop)
    assert row(LAST, database).status == "published"
