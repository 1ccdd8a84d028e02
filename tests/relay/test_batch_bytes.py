"""A batch is bounded by the bytes of its payloads as well as by the number of its events."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from django.db import transaction

from django_broadcaster.archives import Leaving, create_archive, remove
from django_broadcaster.exceptions import TransientError
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.relay import fetching
from django_broadcaster.relay.loop import DeliveryLoop
from tests.publishers.statements import statements
from tests.support.archives import WatchingArchive, grow_old
from tests.support.backends import Script
from tests.support.events import count, publish
from tests.support.workers import MANAGE, environment

from .conftest import Join, drain, turn

if TYPE_CHECKING:
    from pytest_django import Settings

BUDGET = 10_000
WATCHING = "tests.support.archives.WatchingArchive"


def publish_sizes(*sizes: int, using: str, binary: bool = False) -> list[str]:
    """Publish an event of one key for each size of data, in bytes; return their names."""
    with transaction.atomic(using=using):
        for number, size in enumerate(sizes):
            data: Any = b"x" * size if binary else "x" * (size - 2)
            publisher.publish_event(
                "a.b", "/s", data, subject=f"{number}", partition_key="k", using=using
            )
    return [str(number) for number in range(len(sizes))]


def deliver(loop: DeliveryLoop, events: int, limit: int = 100) -> None:
    """Take turns, without looking after anything else, until so many events have left."""
    left = events
    while left:
        report = loop.turn(limit)
        assert report.found_work
        left -= report.settled


@pytest.mark.parametrize("form", ["json", "binary", "encrypted"])
def test_a_batch_ends_once_it_has_so_many_bytes(
    database: str, scripted: Script, join: Join, settings: Settings, form: str
) -> None:
    """Large events go in small batches, in order, however they are stored."""
    settings.OUTBOX_BATCH_BYTES = BUDGET
    if form == "encrypted":
        settings.OUTBOX_ENCRYPTION_KEYS = [Fernet.generate_key()]
    names = publish_sizes(*[4000] * 10, using=database, binary=form == "binary")
    deliver(join(), 10)
    assert scripted.arrived == names
    most = 2 if form == "encrypted" else 3  # encrypted it has 5,400
    assert [len(batch) for batch in scripted.batches] == [most] * (10 // most) + [1] * (10 % most)


def test_an_event_over_the_budget_ends_its_batch(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """Nothing is too large to be delivered, and small events around it go together."""
    settings.OUTBOX_BATCH_BYTES = BUDGET
    names = publish_sizes(*[100] * 5, 50_000, 50_000, *[100] * 20, using=database)
    deliver(join(), len(names))
    assert scripted.arrived == names
    batches = [len(batch) for batch in scripted.batches]
    assert batches[:2] == [6, 1]
    assert len(batches) <= 8  # they grow again


def test_small_events_take_one_statement(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """A batch that the budget does not concern is read as one, by one statement."""
    loop = join()
    publish_sizes(*[300] * 100, using=database)
    turn(loop, 1)
    with statements() as said:
        loop.turn(90)
    assert len([sql for sql in said if "partition_key" in sql and "SELECT" in sql]) == 1
    assert len(scripted.batches[-1]) == 90


def test_large_events_take_one_statement_once_they_are_known(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """A backlog of large events is not read twice for each of its batches."""
    settings.OUTBOX_BATCH_BYTES = BUDGET
    loop = join()
    publish_sizes(*[4000] * 12, using=database)
    turn(loop)
    with statements() as said:
        loop.turn(100)
    assert len([sql for sql in said if "partition_key" in sql and "SELECT" in sql]) == 1


def test_a_relay_begins_with_little(
    database: str, scripted: Script, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that dies of large batches gets something done each time, as it does after a takeover."""
    monkeypatch.setattr(fetching, "FIRST_BYTES", BUDGET)
    publish_sizes(*[10_000] * 20, using=database)
    loop = join()
    deliver(loop, 1 + 2 + 4)
    loop.forget()
    deliver(loop, 1 + 2)
    assert [len(batch) for batch in scripted.batches] == [1, 2, 4, 1, 2]


def test_large_events_in_retry_come_again_in_bounded_batches(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """Also those below the place where fetches start, of which none is forgotten."""
    settings.OUTBOX_BATCH_BYTES = BUDGET
    with transaction.atomic(using=database):
        for number in range(10):
            publisher.publish_event("a.b", "/s", "x" * 4000, subject=f"{number}", using=database)
    loop = join()
    turn(loop, 1)
    ids = list(OutboxEvent.objects.using(database).order_by("id").values_list("id", flat=True))
    loop.owned.watermark.start = ids[-1] + 1  # as after many deliveries, on PostgreSQL
    loop.owned.watermark.pending_again(ids)
    while loop.owned.watermark.has_again:
        loop.turn(100)
    assert scripted.arrived == [str(number) for number in range(10)]
    assert max(len(batch) for batch in scripted.batches) == 3


def test_events_in_retry_and_new_ones_share_the_budget(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """Those that come again take room from those that are fetched beside them."""
    settings.OUTBOX_BATCH_BYTES = BUDGET
    names = publish_sizes(*[4000] * 6, using=database)
    loop = join()
    loop.do_rounds()
    ids = list(OutboxEvent.objects.using(database).order_by("id").values_list("id", flat=True))
    loop.owned.watermark.start = ids[2]
    loop.owned.watermark.pending_again(ids[:2])
    deliver(loop, 6)
    assert scripted.arrived == names
    assert [len(batch) for batch in scripted.batches] == [3, 3]


def test_suspects_are_fetched_one_at_a_time(database: str, scripted: Script, join: Join) -> None:
    """Where each event is sent alone, the others are not read each time; then batches grow."""
    names = publish_sizes(*[300] * 34, using=database)
    OutboxEvent.objects.using(database).filter(subject__in=names[:3]).update(crash_count=1)
    loop = join()
    turn(loop)
    reports = [loop.turn(100) for _ in range(7)]
    assert [report.left for report in reports] == [0] * 7
    assert scripted.arrived == names
    assert [len(batch) for batch in scripted.batches[:3]] == [1, 1, 1]


def test_batches_grow_again_though_the_events_that_were_asked_for_are_gone(
    database: str, scripted: Script, join: Join
) -> None:
    """After a suspect, ids that are not pending any more hold up nothing for long."""
    events = publish(*(f"-{number}" for number in range(1, 201)), using=database)
    fetcher = join().owned.fetcher
    fetcher.take_one()
    OutboxEvent.objects.using(database).update(status="cancelled")
    left: Collection[int] = {event.pk for event in events}
    for _ in range(8):
        _, left = fetcher.fetch_fitting(range(64), left)
    assert not left


def test_an_archive_has_large_events_in_portions(
    database: str, scripted: Script, settings: Settings
) -> None:
    """What is archived at a time is bounded by bytes, and all of it is archived."""
    settings.OUTBOX_BATCH_BYTES = BUDGET
    settings.OUTBOX_ARCHIVE = {"BACKEND": WATCHING}
    publish_sizes(*[4000] * 5, 50_000, 100, 100, using=database)
    grow_old(database)
    ids = list(OutboxEvent.objects.using(database).order_by("id").values_list("id", flat=True))
    stored: list[list[int]] = []

    def note(leaving: Leaving) -> None:
        stored.append([row.id for row in leaving.rows])

    WatchingArchive.on_store = note
    assert remove(database, ids, create_archive()) == len(ids)
    assert stored == [ids[:2], ids[2:4], ids[4:5], ids[5:6], ids[6:]]


def peak_megabytes(database: str, **settings: Any) -> float:
    """Return the most memory that a relay takes to drain the outbox."""
    publishers = {"default": {"BACKEND": "django_broadcaster.backends.DummyBackend"}}
    worker = subprocess.Popen(
        [sys.executable, str(MANAGE), "outbox_worker", "--drain"],
        env=environment(database, {"OUTBOX_PUBLISHERS": publishers, **settings}),
    )
    _, status, usage = os.wait4(worker.pid, 0)
    worker.returncode = os.waitstatus_to_exitcode(status)
    assert worker.returncode == 0
    return usage.ru_maxrss / (1 << 10)


@pytest.mark.chaos  # for the time that it takes
@pytest.mark.skipif(sys.platform != "linux", reason="counts memory in Linux's units")
def test_the_memory_of_a_relay_is_bounded(committing: None, database: str) -> None:
    """A backlog of 120 MB is drained with a few times the budget of 4 MB."""
    idle = peak_megabytes(database)
    publish_sizes(*[2_000_000] * 60, using=database)
    took = peak_megabytes(database, OUTBOX_BATCH_BYTES=4_000_000) - idle
    assert count("published", database) == 60
    assert took < 60, f"{took:.0f} MB"


def test_a_failure_of_large_events_does_not_lose_their_place(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """Events of a key wait behind a large one that fails, and follow it in order."""
    settings.OUTBOX_BATCH_BYTES = BUDGET
    settings.OUTBOX_RETRY = {"initial": 0.05, "maximum": 0.05, "jitter": 0.0}
    names = publish_sizes(*[4000] * 7, using=database)
    scripted.fail("2", TransientError("busy"), times=2)
    loop = join()
    while count("published", database) < len(names):
        drain(loop)
    assert scripted.arrived == names
