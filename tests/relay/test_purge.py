"""Purging: what is old goes, by backend and status, and what is young or undelivered stays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_broadcaster.archives import Leaving
from django_broadcaster.exceptions import ArchiveConfigurationError, Rejected
from django_broadcaster.models import (
    InboxEvent,
    OutboxArchivedEvent,
    OutboxEvent,
    OutboxTaskRun,
)
from django_broadcaster.relay import purging
from tests.support.archives import LONG_AGO, WatchingArchive, archived_names, grow_old
from tests.support.backends import Script, script
from tests.support.clock import Clock
from tests.support.events import count, publish, publish_many, row, statuses
from tests.support.routing import OneDatabase
from tests.support.waiting import wait_until
from tests.support.workers import Workers

from .conftest import SCRIPTED, Join, drain, turn
from .test_delivery import deliver

if TYPE_CHECKING:
    from pytest_django import Settings

WATCHING = "tests.support.archives.WatchingArchive"
KILLING = "tests.support.archives.KillingArchive"
TABLE = "django_broadcaster.archives.TableArchive"
FILE = "django_broadcaster.archives.FileArchive"


def test_old_events_are_purged_past_those_that_stay(
    database: str, scripted: Script, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old events go, also behind young ones that were replayed or scheduled; the others stay."""
    monkeypatch.setattr(purging, "CHUNK", 2)
    monkeypatch.setattr(purging, "TURN_SECONDS", 60.0)  # one turn purges all
    dead = ["a1", "a2", "a3", "a4", "a7"]
    for name in dead:
        scripted.fail(name, Rejected("no"))
    publish(*(f"a{number}" for number in range(1, 13)), using=database)
    deliver(database)
    OutboxEvent.objects.using(database).update(created_at=timezone.now() - LONG_AGO)
    grow_old(database, ["a5", "a6", "a8", "a9", "a11"])
    turn(join())
    assert list(statuses(database)) == [*dead, "a10", "a12"]


def test_cancelled_event_stays_until_its_time(
    database: str, scripted: Script, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancelled periodic event is not purged and written again; those after it are purged."""
    monkeypatch.setattr(purging, "CHUNK", 1)
    monkeypatch.setattr(purging, "TURN_SECONDS", 60.0)  # one turn purges all
    names = ["ahead", "past"]
    publish(*names, using=database, scheduled_at=timezone.now() + LONG_AGO)
    rows = OutboxEvent.objects.using(database)
    rows.cancel()
    rows.update(created_at=timezone.now() - LONG_AGO, ended_at=timezone.now() - LONG_AGO)
    rows.filter(subject="past").update(scheduled_at=timezone.now() - LONG_AGO)
    turn(join())
    assert statuses(database) == {"ahead": "cancelled"}


def test_the_purge_rests_and_starts_again(
    database: str, scripted: Script, join: Join, clock: Clock
) -> None:
    """A purge that found nothing rests for a while, and looks again later."""
    publish("a1", using=database)
    loop = join()
    drain(loop)
    grow_old(database, ["a1"])
    turn(loop)
    assert row("a1", database).status == "published", "it rests"
    clock.advance(60)
    turn(loop)
    assert statuses(database) == {}


def test_old_inbox_entries_are_purged(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """The inbox forgets what is older than OUTBOX_INBOX_RETENTION, and nothing else."""
    settings.OUTBOX_INBOX_RETENTION = 3600
    now = timezone.now()
    for number, hours in enumerate([3, 2, 0.5]):
        InboxEvent.objects.using(database).create(
            identity=str(number),
            handler="h",
            source="/s",
            event_id=str(number),
            processed_at=now - timedelta(hours=hours),
        )
    turn(join())
    assert list(InboxEvent.objects.using(database).values_list("identity", flat=True)) == ["2"]


def test_old_runs_of_tasks_are_purged(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """Runs of Django's tasks stay as long as what the inbox remembers."""
    settings.OUTBOX_INBOX_RETENTION = 3600
    runs = OutboxTaskRun.objects.using(database)
    for hours in (3, 2, 0.5):
        began = timezone.now() - timedelta(hours=hours)
        runs.create(
            task_id=str(hours),
            started_at=began,
            last_attempted_at=began,
            is_running=False,
            worker_ids=["host:1"],
        )
    turn(join())
    assert list(runs.values_list("task_id", flat=True)) == ["0.5"]


class InboxElsewhere(OneDatabase):
    """Sends what handlers had to another database than everything else."""

    inbox = ""

    def db_for_write(self, model: Any, **hints: Any) -> str:
        """Return the alias."""
        return self.inbox if model is InboxEvent else self.db_for_read(model)


def test_the_inbox_is_purged_where_it_is(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """Handlers may have a database of their own, and what they had stands there."""
    router = InboxElsewhere(database)
    router.inbox = next((alias for alias in connections if alias != database), database)
    settings.DATABASE_ROUTERS = [router]
    settings.OUTBOX_INBOX_RETENTION = 3600
    ago = timezone.now() - timedelta(hours=3)
    for alias in {database, router.inbox}:
        InboxEvent.objects.using(alias).create(
            identity="1", handler="h", source="/s", event_id="1", processed_at=ago
        )
    turn(join())
    for alias in (database, router.inbox):
        assert not InboxEvent.objects.using(alias).exists()


def test_nothing_is_purged_that_is_kept_for_ever(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """With OUTBOX_RETENTION = None events stay."""
    settings.OUTBOX_RETENTION = settings.OUTBOX_INBOX_RETENTION = None
    publish("a1", using=database)
    deliver(database)
    grow_old(database, ["a1"])
    turn(join())
    assert statuses(database) == {"a1": "published"}


@pytest.fixture
def refusing_purge(database: str) -> Iterator[None]:
    """A table of the application's that does not let events go."""
    table, connection = OutboxEvent._meta.db_table, connections[database]
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE tests_keeper (id bigint NOT NULL, "
            f"FOREIGN KEY (id) REFERENCES {table} (id))"
        )
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE tests_keeper")


def test_a_purge_that_the_database_refuses_stops_no_delivery(
    database: str, scripted: Script, join: Join, refusing_purge: None
) -> None:
    """Maintenance that fails is tried again later; events are delivered meanwhile."""
    (event,) = publish("a1", using=database)
    deliver(database)
    with connections[database].cursor() as cursor:
        cursor.execute("INSERT INTO tests_keeper VALUES (%s)", [event.pk])
    grow_old(database, ["a1"])
    long_ago = timezone.now() - timedelta(days=365)
    InboxEvent.objects.using(database).create(
        identity="1", source="/s", event_id="1", handler="h", processed_at=long_ago
    )
    publish("b1", using=database)
    turn(join())
    assert statuses(database) == {"a1": "published", "b1": "published"}
    # What has nothing to do with it is purged all the same.
    assert not InboxEvent.objects.using(database).filter(processed_at=long_ago).exists()


# By backend and status


def in_status(using: str, **ages: tuple[str, timedelta]) -> None:
    """Let events stand in a status, that they have been in for so long."""
    now = timezone.now()
    for name, (status, age) in ages.items():
        (event,) = publish(name, using=using)
        end = {"published_at" if status == "published" else "ended_at": now - age}
        begin = now - age - timedelta(days=1)
        rows = OutboxEvent.objects.using(using).filter(pk=event.pk)
        rows.update(status=status, created_at=begin, scheduled_at=begin, **end)


@pytest.mark.parametrize(
    ("kept", "left"),
    [
        ({}, ["p1", "f1", "f3", "f100", "c1"]),
        ({"failed": timedelta(days=90)}, ["p1", "f1", "f3", "c1"]),
        ({"published": timedelta(days=9)}, ["p1", "p3", "f1", "f3", "f100", "c1", "c3"]),
        ({"cancelled": None}, ["p1", "f1", "f3", "f100", "c1", "c3", "c100"]),
        ({"published": None, "cancelled": 60}, ["p1", "p3", "p100", "f1", "f3", "f100"]),
        ({"published": 60, "failed": 60, "cancelled": 60}, []),
    ],
)
def test_each_status_has_its_time(
    database: str,
    scripted: Script,
    join: Join,
    settings: Settings,
    kept: dict[str, Any],
    left: list[str],
) -> None:
    """Events go by the time since they were published, given up or cancelled, not by their age."""
    settings.OUTBOX_RETENTION = timedelta(days=2)
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": SCRIPTED, "RETENTION": kept}}
    days = (100, 3, 1)
    letters = {"p": "published", "f": "failed", "c": "cancelled"}
    names = {f"{key}{day}": (letters[key], timedelta(days=day)) for key in letters for day in days}
    in_status(database, **names)
    turn(join())
    assert set(statuses(database)) == set(left)


def test_retention_as_in_version_0_1_purges_both(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """Published events and dead letters go after the days that OUTBOX_RETENTION names for each."""
    settings.OUTBOX_RETENTION = {"PUBLISHED_RETENTION_DAYS": 2, "FAILED_RETENTION_DAYS": 90}
    in_status(
        database,
        p1=("published", timedelta(days=1)),
        p3=("published", timedelta(days=3)),
        f3=("failed", timedelta(days=3)),
        f100=("failed", timedelta(days=100)),
    )
    turn(join())
    assert set(statuses(database)) == {"p1", "f3"}


def test_a_dead_letter_is_young_however_long_it_waited(
    database: str, scripted: Script, join: Join, settings: Settings, clock: Clock
) -> None:
    """Its time begins when it is given up, cancelled or expires, and anew after a replay."""
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": SCRIPTED, "RETENTION": {"failed": 3600}}}
    scripted.fail("a1", Rejected("no"))
    publish("a1", "b1", using=database)
    publish("c1", using=database, extensions={"expirytime": timezone.now() - timedelta(days=9)})
    rows = OutboxEvent.objects.using(database)
    rows.update(created_at=timezone.now() - timedelta(days=9), scheduled_at=timezone.now())
    assert rows.filter(subject="b1").cancel() == 1
    loop = join()
    drain(loop)
    for name in ("a1", "b1", "c1"):
        ended_at = row(name, database).ended_at
        assert ended_at is not None
        assert timezone.now() - ended_at < timedelta(minutes=1)
    clock.advance(60)
    turn(loop)
    assert statuses(database) == {"a1": "failed", "b1": "cancelled", "c1": "cancelled"}
    assert rows.filter(subject="a1").replay() == 1
    assert row("a1", database).ended_at is None


def test_each_backend_has_its_own_time(
    database: str, scripted: Script, join: Join, settings: Settings, clock: Clock
) -> None:
    """One deletes at once, one after a day, one never; each purges its own events only."""
    entries: dict[str, dict[str, Any]] = {
        "default": {"RETENTION": 0},
        "day": {"RETENTION": timedelta(days=1)},
        "ever": {"RETENTION": None},
    }
    settings.OUTBOX_PUBLISHERS = {a: {"BACKEND": SCRIPTED, **more} for a, more in entries.items()}
    loops = {alias: join(alias) for alias in entries}
    for alias, loop in loops.items():
        publish(f"{alias}1", f"{alias}2", using=database, backend=alias)
        drain(loop)
        assert len(script(alias).arrived) == 2
    assert set(statuses(database)) == {"day1", "day2", "ever1", "ever2"}
    grow_old(database, ["day1", "ever1"])
    for loop in loops.values():
        clock.advance(60)
        turn(loop)
    assert set(statuses(database)) == {"day2", "ever1", "ever2"}


def test_a_purge_reads_and_locks_a_bounded_number(
    database: str, scripted: Script, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn that has no more time ends with its chunk, and the next one goes on behind it."""
    monkeypatch.setattr(purging, "CHUNK", 5)
    monkeypatch.setattr(purging, "TURN_SECONDS", 0.0)
    publish_many(12, database, keys=3)
    grow_old(database)
    loop = join()
    for left in (7, 2, 0):
        with CaptureQueriesContext(connections[database]) as queries:
            turn(loop)
        assert count("published", database) == left
        deletes = [query["sql"] for query in queries if query["sql"].startswith("DELETE FROM")]
        assert sum("outboxevent" in sql for sql in deletes) == 1


def test_a_rare_backend_does_not_read_the_others_again(
    database: str, scripted: Script, join: Join, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all that is behind was written too late to be old, a purge stops and rests."""
    monkeypatch.setattr(purging, "CHUNK", 5)
    plain = {"BACKEND": SCRIPTED}
    settings.OUTBOX_PUBLISHERS = {"default": plain, "rare": plain}
    publish_many(10, database, keys=2)
    grow_old(database)
    publish_many(40, database, keys=2, backend="default")
    OutboxEvent.objects.using(database).filter(status="pending").update(
        status="published", published_at=timezone.now()
    )
    with CaptureQueriesContext(connections[database]) as queries:
        turn(join("rare"))
    looks = [q for q in queries if q["sql"].startswith("SELECT") and "ended_at" in q["sql"]]
    assert len(looks) == 3


def test_a_clock_that_was_ahead_stops_no_purge(
    database: str, scripted: Script, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events that say they were created in the future do not hide old ones behind them."""
    monkeypatch.setattr(purging, "CHUNK", 2)
    publish("a1", "a2", "a3", "a4", "b1", using=database)
    grow_old(database)
    rows = OutboxEvent.objects.using(database).exclude(subject="b1")
    rows.update(created_at=timezone.now() + LONG_AGO, status="cancelled", ended_at=timezone.now())
    turn(join())
    assert "b1" not in statuses(database)


# Into the archive


def test_old_events_go_into_the_files(
    database: str, scripted: Script, join: Join, settings: Settings, tmp_path: Path
) -> None:
    """What the purge deletes stands in the archive, and nothing else."""
    settings.OUTBOX_ARCHIVE = {"BACKEND": FILE, "OPTIONS": {"directory": str(tmp_path)}}
    publish("a1", "a2", "a3", using=database)
    deliver(database)
    grow_old(database, ["a1", "a3"])
    turn(join())
    assert statuses(database) == {"a2": "published"}
    assert archived_names(tmp_path) == ["a1", "a3"]


def test_old_events_go_into_the_table(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """They move from the one table to the other."""
    settings.OUTBOX_ARCHIVE = {"BACKEND": TABLE}
    publish("a1", "a2", using=database)
    deliver(database)
    grow_old(database, ["a1"])
    turn(join())
    assert statuses(database) == {"a2": "published"}
    assert OutboxArchivedEvent.objects.using(database).get().subject == "a1"


def test_what_is_deleted_as_it_is_published_is_not_archived(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """Retention zero goes before the archive, as check W005 says."""
    settings.OUTBOX_ARCHIVE, settings.OUTBOX_RETENTION = {"BACKEND": TABLE}, 0
    publish("a1", using=database)
    drain(join())
    assert statuses(database) == {}
    assert not OutboxArchivedEvent.objects.using(database).exists()


def test_an_archive_that_fails_stops_no_delivery(
    database: str, scripted: Script, join: Join, settings: Settings, caplog: Any, clock: Clock
) -> None:
    """Old events stay, which is logged; new ones are delivered; later it is tried again."""
    settings.OUTBOX_ARCHIVE = {"BACKEND": WATCHING}
    stored: list[int] = []

    def fail(leaving: Leaving) -> None:
        raise OSError("no space left")

    WatchingArchive.on_store = staticmethod(fail)  # type: ignore[assignment]
    publish("a1", using=database)
    grow_old(database)
    publish("b1", using=database)
    loop = join()
    turn(loop)
    assert scripted.arrived == ["b1"]
    assert statuses(database) == {"a1": "published", "b1": "published"}
    assert "Could not archive old events: WatchingArchive: no space left" in caplog.text
    store = staticmethod(lambda leaving: stored.extend(leaving.ids))
    WatchingArchive.on_store = store  # type: ignore[assignment]
    clock.advance(60)
    turn(loop)
    assert len(stored) == 1
    assert statuses(database) == {"b1": "published"}


def test_a_wrong_archive_is_said_at_the_start(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """A relay that could not archive does not begin."""
    settings.OUTBOX_ARCHIVE = {"BACKEND": FILE}
    with pytest.raises(ArchiveConfigurationError, match="must have 'directory'"):
        join()


@pytest.mark.chaos
def test_a_kill_between_archive_and_delete_loses_nothing(
    database: str, workers: Workers, tmp_path: Path
) -> None:
    """Killed amid the writing of a batch, then behind it, relays repeat batches, and lack none."""
    names = publish_many(3000, database, keys=10)
    grow_old(database)
    directory = tmp_path / "archive"
    options = {"directory": str(directory), "folder": str(tmp_path)}
    settings = {
        "OUTBOX_PUBLISHERS": {"default": {"BACKEND": "django_broadcaster.backends.DummyBackend"}},
        "OUTBOX_ARCHIVE": {"BACKEND": KILLING, "OPTIONS": options},
        "OUTBOX_LEASE_SECONDS": 2,
    }
    for _ in range(2):
        assert workers.start(database, "--database", database, **settings).end() == -9
        assert count("published", database) > 0
    worker = workers.start(database, "--database", database, **settings)
    wait_until(lambda: not statuses(database), 30, "the old events to be gone")
    worker.stop()
    assert worker.end() == 0
    archived = archived_names(directory)
    assert set(archived) == set(names)
    # What is whole of half a member is read too; the batch that was safe is there twice.
    assert purging.CHUNK <= len(archived) - len(names) <= 2 * purging.CHUNK


def test_a_backlog_of_old_events_is_purged_in_good_time(
    database: str, scripted: Script, join: Join
) -> None:
    """A turn ends soon, and a few of them take thousands of events out."""
    publish_many(2000, database, keys=10)
    grow_old(database)
    loop, turns = join(), 0
    while statuses(database):
        began = time.monotonic()
        turn(loop)
        turns += 1
        assert time.monotonic() - began < 10 * purging.TURN_SECONDS + 2
        assert turns < 30
