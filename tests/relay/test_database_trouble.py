"""The database restarts, hangs, fills up, refuses: a relay lives through it and loses nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from signal import SIGINT, SIGKILL, SIGQUIT, SIGTERM
from typing import TYPE_CHECKING, Any

import pytest
from django.db import Error, connections, transaction

from django_broadcaster.models import OutboxEvent, OutboxPartition, OutboxRelay
from django_broadcaster.relay import polling
from django_broadcaster.store import relay_sql
from tests.app.models import Order
from tests.support.backends import Script
from tests.support.databases import SERVERS
from tests.support.disks import MEGABYTE, Disk, FileLimit, small_disk
from tests.support.events import publish, publish_many
from tests.support.load import all_settled, repeats, writing
from tests.support.own_servers import OwnDatabase, freeze, own_instance, running, service_like, thaw
from tests.support.waiting import wait_until
from tests.support.workers import Worker, Workers

from .conftest import Stream, working

if TYPE_CHECKING:
    from pytest_django import Settings

REDIS = "django_broadcaster.backends.RedisStreamBackend"
BATCH = 20
PROMPT = ("--batch-size", str(BATCH), "--interval", "0.05")
WORDS = {
    # A log that takes little room, so that a small disk is full soon.
    "postgres": ("--wal-segsize=1", "-c min_wal_size=2MB -c max_wal_size=4MB"),
}
"""More words on the command lines by which a kind of server is prepared and served."""

pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module", params=["postgres", "mariadb"])
def own_server(
    request: pytest.FixtureRequest, django_db_setup: None, django_db_blocker: pytest.FixtureRequest
) -> Iterator[OwnDatabase]:
    """A server that only the tests of this module use."""
    if request.param == "mariadb":
        pytest.importorskip("MySQLdb")
    with django_db_blocker.unblock():  # type: ignore[attr-defined]
        service = service_like(request.param, *WORDS.get(request.param, ()))
        with own_instance(service) as instance, running(instance) as server:
            yield server


@pytest.fixture
def own(own_server: OwnDatabase, committing: None) -> OwnDatabase:
    """A server of the test's own whose outbox is empty."""
    own_server.execute("TRUNCATE TABLE django_broadcaster_outboxevent")  # it is small again, too
    for model in (OutboxPartition, OutboxRelay):
        model._base_manager.using("own").all()._raw_delete("own")
    return own_server


Full = Callable[[OwnDatabase], AbstractContextManager[Disk | FileLimit]]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
on_postgres = pytest.mark.parametrize("own_server", ["postgres"], indirect=True)


def some_more(stream: Stream, events: int = 100) -> None:
    """Wait until so many more events have arrived."""
    goal = len(stream) + events
    wait_until(lambda: len(stream) >= goal, 30, f"{events} deliveries more")


def kept_calm(*workers: Worker) -> bool:
    """Tell whether relays run, met nothing that they did not foresee, and kept their leases."""
    words = ("Traceback", "crashed", "Lease lost", "Took over")
    return all(
        worker.runs and not any(word in worker.output for word in words) for worker in workers
    )


def end(*workers: Worker) -> None:
    """Let relays end as they should."""
    for worker in workers:
        worker.stop()
    assert [worker.end() for worker in workers] == [0] * len(workers)


def troubles(worker: Worker) -> int:
    """Return how often a relay broke off."""
    return worker.output.count("is failing")


# Connections that break


def test_a_database_that_restarts_under_load_loses_nothing(
    own: OwnDatabase, stream: Stream, workers: Workers
) -> None:
    """However it ends, the relay goes on when it is back, in order, and repeats nothing."""
    ways: list[Callable[[], None]] = [lambda: own.restart(SIGTERM), lambda: own.restart(SIGKILL)]
    if own.is_postgres:
        ways = [lambda: own.restart(SIGINT), lambda: own.restart(SIGQUIT), own.crash]
    with writing("own") as load:
        worker = workers.start("own", *PROMPT, OUTBOX_PUBLISHERS=stream.publishers(REDIS))
        for fail in ways:
            some_more(stream)
            fail()
        some_more(stream)
    wait_until(lambda: all_settled("own"), 30, "every event")
    assert troubles(worker) >= len(ways)
    assert kept_calm(worker), worker.output
    end(worker)
    assert repeats(stream.names(), load.committed, "own") == 0
    assert not OutboxEvent.objects.using("own").filter(retry_count__gt=0).exists()


def cut(own: OwnDatabase) -> int:
    """End all sessions but this one, as an administrator would; return how many there were."""
    if own.is_postgres:
        sql = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return len(own.execute(sql))
    numbers = own.execute(
        "SELECT id FROM information_schema.processlist "
        "WHERE db = DATABASE() AND id <> CONNECTION_ID()"
    )
    for (number,) in numbers:
        with suppress(Error):  # it has ended meanwhile
            own.execute(f"KILL CONNECTION {number}")
    return len(numbers)


def test_sessions_that_are_ended_again_and_again_lose_nothing(
    own: OwnDatabase, stream: Stream, workers: Workers
) -> None:
    """All sessions of two relays and of the writers end eight times under load."""
    with writing("own") as load:
        settings = {"OUTBOX_PUBLISHERS": stream.publishers(REDIS)}
        two = [workers.start("own", *PROMPT, **settings) for _ in range(2)]
        wait_until(lambda: shares() == [32, 32], 20, "both relays at work")
        for _ in range(8):
            some_more(stream, 10)
            connections["own"].close()
            wait_until(lambda: cut(own), 10, "sessions to end")
        some_more(stream)
    wait_until(lambda: all_settled("own"), 30, "every event")
    assert kept_calm(*two), "".join(worker.output for worker in two)
    assert all(troubles(worker) for worker in two)
    end(*two)
    assert repeats(stream.names(), load.committed, "own") == 0


@on_postgres
def test_an_outage_is_not_taken_for_the_death_of_the_others(
    own: OwnDatabase, stream: Stream, workers: Workers
) -> None:
    """Relays whose hearts could not be heard for longer than a lease keep their partitions."""
    lease = 3.0
    settings = {"OUTBOX_PUBLISHERS": stream.publishers(REDIS), "OUTBOX_LEASE_SECONDS": lease}
    with writing("own") as load:
        first, second = two = [workers.start("own", *PROMPT, **settings) for _ in range(2)]
        wait_until(lambda: shares() == [32, 32], 20, "both relays at work")
        own.instance.stop()
        connections["own"].close()
        time.sleep(lease + 1)  # the length of the outage, which is what this is about
        own.instance.start()
        some_more(stream)
    wait_until(lambda: all_settled("own"), 30, "every event")
    assert shares() == [32, 32]
    assert kept_calm(*two), first.output + second.output
    end(*two)
    assert repeats(stream.names(), load.committed, "own") == 0
    assert not OutboxEvent.objects.using("own").filter(crash_count__gt=0).exists()


def shares() -> list[int]:
    """Return how many partitions each relay owns."""
    relays = OutboxRelay.objects.using("own").all()
    return [OutboxPartition.objects.using("own").filter(relay=relay).count() for relay in relays]


def test_a_relay_whose_sessions_have_ended_is_woken_again(
    committing: None, scripted: Script, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pacemaker listens again, so what is published then waits for no poll."""
    if connections["default"].vendor != "postgresql":
        pytest.skip("needs PostgreSQL")
    monkeypatch.setattr(polling, "FIRST_PAUSE", 60)
    settings.OUTBOX_LEASE_SECONDS = 120  # so that LISTEN is the last that a session did for a while
    with working("default", interval=60):
        for name in ("a1", "a2", "a3"):
            wait_until(is_listening, 20, "the relay to listen")
            publish(name, using="default")
            wait_until(lambda name=name: name in scripted.arrived, 20, f"the delivery of {name}")
            wait_until(lambda: all_settled("default"), 20, f"{name} to be settled")
            ask(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
    assert scripted.arrived == ["a1", "a2", "a3"]


def is_listening() -> bool:
    """Tell whether a session of the shared PostgreSQL has begun to listen."""
    sql = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() "
        "AND state = 'idle' AND query = 'LISTEN django_broadcaster_shares'"
    )
    return bool(ask(sql))


def ask(sql: str) -> list[Any]:
    """Return the rows that a query gives on the shared PostgreSQL."""
    with connections["default"].cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


@on_linux
@on_postgres
def test_a_database_that_hangs_keeps_no_relay_from_ending(
    own: OwnDatabase, stream: Stream, workers: Workers
) -> None:
    """A relay whose statements are not answered ends within its time, with a failure."""
    with writing("own", "a"):
        worker = workers.start(
            "own",
            *PROMPT,
            OUTBOX_PUBLISHERS=stream.publishers(REDIS),
            OUTBOX_SHUTDOWN_TIMEOUT=0.5,
        )
        some_more(stream, 10)
        freeze(own.instance)
        try:
            worker.stop()
            assert worker.end(10) == 1
        finally:
            thaw(own.instance)
    assert "A batch is still running after" in worker.output


# A database that refuses


@contextmanager
def quota(own: OwnDatabase) -> Iterator[FileLimit]:
    """No file may grow beyond a megabyte: the log needs that, and the outbox has no more."""
    limit = FileLimit(own.instance, MEGABYTE)
    try:
        yield limit
    finally:
        limit.free()


@contextmanager
def disk_of_the_table(own: OwnDatabase) -> Iterator[Disk]:
    """The outbox's table is on a small disk."""
    with small_disk(own.instance.home / "table-disk", 16, own.instance) as disk:
        own.execute(f"CREATE TABLESPACE small LOCATION '{disk.path}'")
        try:
            own.execute("ALTER TABLE django_broadcaster_outboxevent SET TABLESPACE small")
            yield disk
        finally:
            disk.free()
            own.execute("ALTER TABLE django_broadcaster_outboxevent SET TABLESPACE pg_default")
            own.execute("DROP TABLESPACE small")


@contextmanager
def disk_of_the_log(own: OwnDatabase) -> Iterator[Disk]:
    """The server's log is on a small disk, and only grows. When that is full the server ends."""
    place = own.instance.data / "pg_wal"
    own.execute("ALTER SYSTEM SET wal_keep_size = '1GB'")
    with small_disk(own.instance.home / "log-disk", 64, own.instance) as disk:
        own.instance.stop()
        subprocess.run(["mv", place, disk.path], check=True)  # which keeps the owner
        place.symlink_to(disk.path / place.name)
        try:
            own.restart()
            yield disk
        finally:
            disk.free()
            own.revive()
            own.execute("ALTER SYSTEM RESET wal_keep_size")
            own.instance.stop()
            place.unlink()
            subprocess.run(["mv", disk.path / place.name, place.parent], check=True)
            own.restart()


@contextmanager
def old_snapshot(own: OwnDatabase) -> Iterator[None]:
    """Let a transaction see what was, so that the room of dead rows can't be used again."""
    with closing(connections[own.alias].copy()) as other, other.cursor() as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("SELECT 1")
        yield


@on_linux
@on_postgres
@pytest.mark.parametrize("full", [quota, disk_of_the_table, disk_of_the_log])
def test_a_full_disk_loses_and_repeats_nothing(
    own: OwnDatabase, stream: Stream, workers: Workers, full: Full
) -> None:
    """While nothing can be written nothing is sent either; when there is room all goes on."""
    backlog = publish_many(8000, "own", keys=40)
    with full(own) as disk, old_snapshot(own):
        arguments = (*PROMPT, "--batch-size", "100")
        worker = workers.start("own", *arguments, OUTBOX_PUBLISHERS=stream.publishers(REDIS))
        some_more(stream)
        with writing("own") as load:
            disk.fill()
            wait_until(lambda: troubles(worker) and load.refused > 10, 60, "trouble")
            assert len(stream) == len(set(stream.names())), "it sends the same again and again"
            disk.free()
            own.revive()
            some_more(stream)
        wait_until(lambda: all_settled("own"), 30, "every event")
    assert kept_calm(worker), worker.output
    end(worker)
    assert repeats(stream.names(), backlog + load.committed, "own") == 0


def weigh_more(database: str) -> None:
    """See that the database picks the other one as the victim of a deadlock."""
    if connections[database].vendor == "postgresql":  # where it is who first looks for one
        with connections[database].cursor() as cursor:
            cursor.execute("SET LOCAL deadlock_timeout = '1min'")
    else:  # where it is who has changed less
        Order.objects.using(database).bulk_create(Order(number="1") for _ in range(100))


def lock(database: str, event: OutboxEvent) -> None:
    """Lock the event's row until the transaction ends."""
    OutboxEvent.objects.using(database).select_for_update().get(pk=event.pk)


def settle_waits(database: str) -> bool:
    """Tell whether a relay that settles waits for a lock."""
    sql = {
        "postgresql": "SELECT query FROM pg_stat_activity WHERE datname = current_database() "
        "AND wait_event_type = 'Lock'",
        # Not from innodb_trx: it shows the same as long as it is read every tenth of a second.
        "mysql": "SELECT info FROM information_schema.processlist WHERE db = DATABASE() "
        "AND command = 'Query' AND time_ms > 200",
    }[connections[database].vendor]
    with closing(connections[database].copy()) as other, other.cursor() as cursor:
        cursor.execute(sql)
        return any("UPDATE django_broadcaster_outbox" in str(text) for (text,) in cursor)


@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_a_deadlock_costs_no_event(
    database: str,
    scripted: Script,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A relay that is picked as the victim of a deadlock settles its batch all the same."""
    monkeypatch.setenv("PGOPTIONS", "-c deadlock_timeout=2s")  # of the relay's sessions
    monkeypatch.setattr(relay_sql, "LOCK_SECONDS", 30)  # or it would skip what is locked
    names = [f"a{number}" for number in range(6)]
    rows = publish(*names, using=database)
    with working(database):
        with transaction.atomic(using=database):
            weigh_more(database)
            lock(database, rows[3])
            wait_until(lambda: settle_waits(database), 20, "the relay to wait for the lock")
            lock(database, rows[0])
        wait_until(lambda: all_settled(database), 20, "every event")
    assert "deadlock" in caplog.text.lower()
    assert "Traceback" not in caplog.text
    assert scripted.arrived == names
