"""Relays that stall past their lease under load, and what they must not do then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from django.db import connections
from django.utils import timezone

from django_broadcaster.models import OutboxEvent, OutboxRelay
from tests.support.backends import Script, recorded
from tests.support.events import count, first_arrivals, publish
from tests.support.waiting import wait_until
from tests.support.workers import Worker, Workers
from tests.support.writers import writing

from .conftest import Join, Stream, turn

ANNOUNCING = "tests.support.backends.AnnouncingRedisBackend"
BATCH = 10
STALLS = 2


class Change(NamedTuple):
    """One row of the outbox that a session changed or deleted, by the database's clock."""

    who: str
    event: int
    at: datetime


@contextmanager
def audit() -> Iterator[None]:
    """Let the database note each change of an event, with the name of the session."""
    with connections["default"].cursor() as cursor:
        cursor.execute(
            """
            CREATE TABLE tests_audit (who text, event bigint, at timestamptz);
            CREATE FUNCTION tests_audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                INSERT INTO tests_audit
                VALUES (current_setting('application_name'), OLD.id, clock_timestamp());
                RETURN NULL;
            END $$;
            CREATE TRIGGER tests_audit AFTER UPDATE OR DELETE ON django_broadcaster_outboxevent
            FOR EACH ROW EXECUTE FUNCTION tests_audit();
            """
        )
        yield
        cursor.execute("DROP TABLE tests_audit; DROP FUNCTION tests_audit CASCADE")


def changes_by(worker: Worker) -> list[Change]:
    """Return what a process changed, from first to last."""
    with connections["default"].cursor() as cursor:
        cursor.execute(
            "SELECT who, event, at FROM tests_audit WHERE who = %s ORDER BY at",
            [worker.application_name],
        )
        return [Change(*row) for row in cursor.fetchall()]


def lease_of(worker: Worker) -> OutboxRelay | None:
    """Return the lease of a process, if it has one."""
    return OutboxRelay.objects.filter(name__endswith=f":{worker.pid}").first()


def database_now() -> datetime:
    """Return the time by the database's clock."""
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        moment: datetime = cursor.fetchone()[0]
        return moment


def deliveries(record: Path, worker: Worker, after: datetime, before: datetime) -> list[list[str]]:
    """Return the names in each batch that a process began to send between two moments."""
    ahead = (database_now() - timezone.now()).total_seconds()
    return [
        line["names"]
        for line in recorded(record)
        if line["process"] == worker.pid
        and after.timestamp() < line["at"] + ahead < before.timestamp()
    ]


def ids_of(names: list[str]) -> list[int]:
    """Return the ids of events."""
    return list(OutboxEvent.objects.filter(subject__in=names).values_list("id", flat=True))


class Stall(NamedTuple):
    """From when to when a relay had no lease, and what it was delivering as it stalled."""

    lost_at: datetime
    joined_at: datetime
    in_flight: range


def stall(worker: Worker, stream: Stream) -> Stall:
    """Freeze a relay until another has taken over and is at work; return once it has rejoined."""
    worker.freeze()
    lease = wait_until(lambda: lease_of(worker), 10, "the lease as it stalled")
    wait_until(lambda: lease_of(worker) is None, 20, "another relay to take over")
    lost_at, before = database_now(), len(stream)
    wait_until(lambda: len(stream) > before + 50, 20, "the other relay to deliver")
    worker.thaw()
    again = wait_until(lambda: lease_of(worker), 20, "the relay to join again")
    first, last = lease.in_flight_from or 0, lease.in_flight_to or 0
    return Stall(lost_at, again.started_at, range(first, last + 1))


@pytest.mark.chaos
@pytest.mark.slow
def test_a_relay_that_stalls_under_load_does_nothing_without_a_lease(
    committing: None, stream: Stream, workers: Workers, tmp_path: Path
) -> None:
    """From the take-over until it joins again it changes no row and starts no delivery.

    The one batch that it was about to send may still go out. Everything arrives, in order.
    """
    if connections["default"].vendor != "postgresql":
        pytest.skip("needs PostgreSQL")
    record = tmp_path / "record"
    settings = {
        "OUTBOX_PUBLISHERS": stream.publishers(ANNOUNCING, path=str(record)),
        "OUTBOX_LEASE_SECONDS": 2,
        "OUTBOX_POLL_INTERVAL": 0.1,
    }
    arguments = ("--batch-size", str(BATCH))
    with audit(), writing("default") as writers:
        stalling, other = (workers.start("default", *arguments, **settings) for _ in range(2))
        for each in (stalling, other):
            wait_until(lambda each=each: changes_by(each), 20, "both relays at work")
        stalls = [stall(stalling, stream) for _ in range(STALLS)]
        before = len(changes_by(stalling))
        wait_until(lambda: len(changes_by(stalling)) > before, 20, "it to deliver again")
        writers.stop()
        wait_until(lambda: count("published", "default") == len(writers.committed), 30, "all")
        changes = changes_by(stalling)
    for each in (stalling, other):
        each.stop()
        assert each.end() == 0

    for lost_at, joined_at, in_flight in stalls:
        assert not [change for change in changes if lost_at < change.at < joined_at]
        sent = deliveries(record, stalling, lost_at, joined_at)
        assert len(sent) <= 1
        assert all(row_id in in_flight for names in sent for row_id in ids_of(names))
    arrived = stream.names()
    assert first_arrivals(arrived) == first_arrivals(writers.committed)
    assert len(arrived) - len(writers.committed) <= STALLS * BATCH


def test_a_take_over_that_hangs_holds_up_nobody_else(
    database: str, scripted: Script, join: Join
) -> None:
    """While one relay stalls as it fences a dead one, the others deliver what is theirs."""
    connection = connections[database]
    if not connection.features.has_select_for_update_skip_locked:
        pytest.skip("the database has no locks on rows")
    dead, alive = join(), join()
    for loop in (dead, alive, dead, alive):
        turn(loop)
    shared = alive.lease.partitions
    long_ago = timezone.now() - timedelta(hours=1)
    OutboxRelay.objects.using(database).filter(pk=dead.lease.id).update(heartbeat_at=long_ago)
    with closing(connection.copy()) as other, other.cursor() as cursor:
        other.set_autocommit(False)
        cursor.execute(
            "SELECT id FROM django_broadcaster_outboxrelay WHERE id = %s FOR UPDATE",
            [dead.lease.id],
        )
        with limited_waiting(database):
            turn(alive)
            publish(*"abcdefgh", using=database)
            turn(alive)
        assert alive.lease.partitions == shared
        assert scripted.arrived
        other.rollback()
    turn(alive)
    assert len(alive.lease.partitions) > len(shared)


@contextmanager
def limited_waiting(database: str) -> Iterator[None]:
    """Let a statement that waits for a lock fail after a while instead of for ever."""
    set_, reset = {
        "postgresql": ("SET lock_timeout = '5s'", "RESET lock_timeout"),
        "mysql": ("SET innodb_lock_wait_timeout = 5", "SET innodb_lock_wait_timeout = DEFAULT"),
    }[connections[database].vendor]
    with connections[database].cursor() as cursor:
        cursor.execute(set_)
        yield
        cursor.execute(reset)
