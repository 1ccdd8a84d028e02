"""Partitions change hands under load: relays come, go, and are told to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import pytest
from django.db import connections

from django_broadcaster.models import OutboxPartition, OutboxRelay
from django_broadcaster.relay import rounds
from django_broadcaster.relay.loop import DeliveryLoop
from tests.support.backends import Script
from tests.support.databases import SERVERS
from tests.support.events import count, first_arrivals, publish_many
from tests.support.waiting import wait_until
from tests.support.workers import Worker, Workers
from tests.support.writers import writing

from .conftest import Stream, turn, working

REDIS = "django_broadcaster.backends.RedisStreamBackend"
PARTITIONS = 64
SHUTDOWN_TIMEOUT = 10.0


def share_of(worker: Worker, database: str) -> int:
    """Return how many partitions a process owns."""
    owned = OutboxPartition.objects.using(database).filter(relay__name__endswith=f":{worker.pid}")
    return owned.count()


def has_share(worker: Worker, database: str) -> Callable[[], bool]:
    """Return a question: does the process own partitions?"""
    return lambda: share_of(worker, database) > 0


def owns_all(worker: Worker, database: str) -> Callable[[], bool]:
    """Return a question: does the process own every partition?"""
    return lambda: share_of(worker, database) == PARTITIONS


@pytest.fixture
def start(database: str, stream: Stream, workers: Workers) -> Callable[[], Worker]:
    """Return a function that starts a relay; its batches are small, so that it is busy."""

    def begin() -> Worker:
        return workers.start(
            database,
            *("--batch-size", "5"),
            OUTBOX_PUBLISHERS=stream.publishers(REDIS),
            OUTBOX_SHUTDOWN_TIMEOUT=SHUTDOWN_TIMEOUT,
        )

    return begin


@pytest.mark.chaos
@pytest.mark.slow
def test_relays_that_come_and_go_deliver_once_and_in_order(
    database: str, stream: Stream, start: Callable[[], Worker]
) -> None:
    """While writers write, relays join and leave; nothing is lost, repeated or overtaken."""
    with writing(database) as writers:
        running = [start(), start()]
        for worker in running:  # one that is stopped before it has begun dies of the signal
            wait_until(has_share(worker, database), 30, "a share for each of the first")
        for _ in range(2):
            running.append(start())
            wait_until(has_share(running[-1], database), 30, "a share for the newcomer")
            before = len(stream)
            wait_until(lambda before=before: len(stream) > before + 50, 30, "deliveries")
            running[0].stop()
            assert running.pop(0).end() == 0
    wait_until(lambda: count("published", database) == len(writers.committed), 60, "every event")
    for worker in running:
        worker.stop()
    assert [worker.end() for worker in running] == [0] * len(running)
    arrived = stream.names()
    assert first_arrivals(arrived) == first_arrivals(writers.committed)
    assert len(arrived) == len(writers.committed)
    assert not OutboxRelay.objects.using(database).exists()


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize(
    "database",
    SERVERS,  # SQLite is as MariaDB: without NOTIFY
    indirect=True,
)
def test_a_stopped_relays_partitions_are_taken_over_within_a_second(
    database: str, stream: Stream, start: Callable[[], Worker]
) -> None:
    """Told to stop under full load, a relay ends in time, and another goes on with its share.

    The machine may be busy with other things, so it is the median of a few that has to hold.
    Without NOTIFY the one that stays looks once a second: within that, and the time of a look.
    """
    publish_many(6000, database, keys=100)
    seconds = []
    with writing(database):
        stays = start()
        wait_until(owns_all(stays, database), 30, "the first relay at work")
        for _ in range(3):
            leaves = start()
            wait_until(has_share(leaves, database), 30, "a share for the second")
            assert count("pending", database), "there is no load"
            leaves.stop()
            wait_until(lambda leaves=leaves: not share_of(leaves, database), 30, "the hand-over")
            released_at = time.monotonic()
            wait_until(owns_all(stays, database), 30, "the take-over")
            seconds.append(time.monotonic() - released_at)
            assert leaves.end(SHUTDOWN_TIMEOUT + 10) == 0, "not within OUTBOX_SHUTDOWN_TIMEOUT"
    print(f"taken over after {seconds} s")
    assert median(seconds) < (1.0 if connections[database].vendor == "postgresql" else 2.0)


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relays look at their shares when they join, and then not by themselves for an hour."""
    monkeypatch.setattr(rounds, "TICK_SECONDS", 3600.0)


def owned(relay: DeliveryLoop | None, database: str) -> int:
    """Return how many partitions a relay owns, or, for None, how many have an owner."""
    partitions = OutboxPartition.objects.using(database).filter(relay__isnull=False)
    if relay is not None:
        partitions = partitions.filter(relay=relay.lease.id)
    return partitions.count()


@pytest.fixture
def notified(committing: None) -> str:
    """PostgreSQL, whose NOTIFY tells relays of each other."""
    if connections["default"].vendor != "postgresql":
        pytest.skip("needs PostgreSQL")
    return "default"


@pytest.mark.usefixtures("blind")
def test_relays_tell_each_other_that_they_come_and_go(notified: str, scripted: Script) -> None:
    """On PostgreSQL nobody has to look: who comes is given a share, who goes is replaced."""
    with working(notified, interval=3600) as worker:
        wait_until(lambda: owned(None, notified) == PARTITIONS, 10, "the first relay at work")
        listener = worker.worker._pacemaker._listener
        wait_until(lambda: listener._state == "listening", 10, "its ear")
        with DeliveryLoop(notified, "default") as other:
            wait_until(lambda: owned(None, notified) == PARTITIONS // 2, 10, "room for the second")
            turn(other)
            assert owned(other, notified) == PARTITIONS // 2
        wait_until(lambda: owned(None, notified) == PARTITIONS, 10, "the take-over")
        worker.stop()
    assert worker.succeeded
