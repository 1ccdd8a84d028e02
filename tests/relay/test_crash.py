"""Relays as processes on real servers: killed, frozen, poisoned, and told to stop."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals

import pytest

from django_broadcaster.models import OutboxEvent, OutboxPartition, OutboxRelay
from tests.support.backends import Gate
from tests.support.events import count, first_arrivals, publish, publish_many, row
from tests.support.redis_server import redis_server
from tests.support.waiting import wait_until
from tests.support.workers import Worker, Workers
from tests.support.writers import writing

from .conftest import Stream

DYING = "tests.support.backends.DyingRedisBackend"
STOPPING = "tests.support.backends.StoppingRedisBackend"
HANGING = "tests.support.backends.HangingBackend"
REDIS = "django_broadcaster.backends.RedisStreamBackend"
BATCH = 50
pytestmark = pytest.mark.chaos


def in_order(names: list[str]) -> dict[str, list[str]]:
    """Return for each key its events in the order in which they were published."""
    return first_arrivals(names)


def test_a_kill_between_publish_and_settle_repeats_one_batch(
    database: str, stream: Stream, workers: Workers, tmp_path: Path
) -> None:
    """Nothing is lost, at most the batch in flight comes twice, first arrivals are in order."""
    names = publish_many(1000, database, keys=20)
    settings = {
        "OUTBOX_PUBLISHERS": stream.publishers(DYING, at=names[420], folder=str(tmp_path)),
        "OUTBOX_LEASE_SECONDS": 2,
    }
    arguments = ("--drain", "--database", database, "--batch-size", str(BATCH))
    assert workers.start(database, *arguments, **settings).end() == -9
    assert workers.start(database, *arguments, **settings).end() == 0

    arrived = stream.names()
    assert set(arrived) == set(names)
    assert 0 < len(arrived) - len(names) <= BATCH
    assert max(Counter(arrived).values()) == 2
    assert first_arrivals(arrived) == in_order(names)
    assert count("published", database) == len(names)


def test_four_relays_deliver_a_backlog_once(
    stream: Stream, workers: Workers, committing: None
) -> None:
    """Of 20,000 events shared by four relays, each is in the stream exactly once, in order."""
    names = publish_many(20_000, "default", keys=200)
    settings = {"OUTBOX_PUBLISHERS": stream.publishers(REDIS), "OUTBOX_LEASE_SECONDS": 5}
    four = [
        workers.start("default", "--drain", "--batch-size", "100", **settings) for _ in range(4)
    ]
    assert [worker.end(90) for worker in four] == [0, 0, 0, 0]

    arrived = stream.names()
    assert len(arrived) == len(names)
    assert first_arrivals(arrived) == in_order(names)
    assert not OutboxEvent.objects.exclude(status="published").exists()


def test_a_frozen_relay_changes_nothing_it_has_lost(
    database: str, stream: Stream, workers: Workers, tmp_path: Path
) -> None:
    """Stalled past its lease, a relay settles no row, and joins again when it goes on."""
    names = publish_many(300, database, keys=10)
    settings = {
        "OUTBOX_PUBLISHERS": stream.publishers(STOPPING, at=names[10], folder=str(tmp_path)),
        "OUTBOX_LEASE_SECONDS": 2,
        "OUTBOX_POLL_INTERVAL": 0.1,
    }
    arguments = ("--database", database, "--batch-size", str(BATCH))
    gate = Gate(tmp_path)
    stalled = workers.start(database, *arguments, **settings)
    wait_until(gate.arrived.exists, 20, "a batch to be published and not settled")
    stalled.freeze()
    (lost,) = OutboxRelay.objects.using(database).values_list("pk", flat=True)

    other = workers.start(database, "--drain", *arguments, **settings)
    assert other.end() == 0
    settled = dict(OutboxEvent.objects.using(database).values_list("pk", "published_at"))
    gate.open()
    stalled.thaw()
    wait_until(
        lambda: OutboxPartition.objects.using(database).filter(relay__pk__gt=lost).exists(),
        20,
        "the relay to join again",
    )

    assert dict(OutboxEvent.objects.using(database).values_list("pk", "published_at")) == settled
    arrived = stream.names()
    assert len(arrived) <= len(names) + BATCH
    assert first_arrivals(arrived) == in_order(names)
    stalled.stop()
    assert stalled.end() == 0


@pytest.mark.parametrize("number", [SIGTERM, SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_ends_a_relay_under_load(
    database: str, stream: Stream, workers: Workers, number: Signals
) -> None:
    """It ends with 0, its batch settled, and its partitions free at once."""
    publish_many(4000, database, keys=50)
    settings = {"OUTBOX_PUBLISHERS": stream.publishers(REDIS), "OUTBOX_LEASE_SECONDS": 30}
    worker = workers.start(database, "--database", database, "--batch-size", "20", **settings)
    wait_until(lambda: len(stream) > 0, 20, "the first delivery")
    worker.send(number)

    assert worker.end() == 0
    assert count("published", database) == len(stream) > 0
    assert not OutboxRelay.objects.using(database).exists()
    assert not OutboxPartition.objects.using(database).filter(relay__isnull=False).exists()


def has_begun(worker: Worker) -> bool:
    """Tell whether a process has joined as a relay."""
    return OutboxRelay.objects.filter(name__endswith=f":{worker.pid}").exists()


def nobody_owns_anything(database: str) -> bool:
    """Tell whether all leases have been ended, with their partitions."""
    relays = OutboxRelay.objects.using(database).exists()
    return not relays and not (
        OutboxPartition.objects.using(database).filter(relay__isnull=False).exists()
    )


def test_an_idle_relay_stops_at_once(database: str, stream: Stream, workers: Workers) -> None:
    """A relay in a long pause between its looks does not wait for the end of it."""
    publish("a1", using=database)
    worker = workers.start(database, "--interval", "30", OUTBOX_PUBLISHERS=stream.publishers(REDIS))
    wait_until(lambda: row("a1", database).status == "published", 20, "a delivery")
    worker.stop()
    asked_at = time.monotonic()
    assert worker.end() == 0
    assert time.monotonic() - asked_at < 5
    assert nobody_owns_anything(database)


def test_a_hanging_batch_is_given_back_in_time(
    database: str, workers: Workers, tmp_path: Path
) -> None:
    """A delivery that does not end keeps neither the process nor the partitions."""
    publish("a1", using=database)
    options = {"folder": str(tmp_path)}
    hanging = {"BACKEND": HANGING, "OPTIONS": options}
    worker = workers.start(
        database, OUTBOX_PUBLISHERS={"default": hanging}, OUTBOX_SHUTDOWN_TIMEOUT=0.5
    )
    wait_until(Gate(tmp_path).arrived.exists, 20, "the batch that hangs")
    worker.stop()
    asked_at = time.monotonic()
    assert worker.end() == 1
    assert time.monotonic() - asked_at < 5
    assert "A batch is still running after" in worker.output
    event = row("a1", database)
    assert (event.status, event.retry_count, event.crash_count) == ("pending", 0, 0)
    assert nobody_owns_anything(database)


def test_a_broker_that_is_killed_costs_nothing(
    committing: None, workers: Workers, tmp_path: Path
) -> None:
    """A broker that dies and is away for a while loses no event, and spends no retry."""
    with redis_server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        names = publish_many(2000, "default", keys=11)
        worker = workers.start(
            "default",
            *("--batch-size", "10", "--interval", "0.05"),
            # Untrimmed: a server whose file was cut off in a transaction trims too much afterwards.
            OUTBOX_PUBLISHERS={
                "default": {"BACKEND": REDIS, "OPTIONS": {"url": server.url, "max_len": None}}
            },
            OUTBOX_CIRCUIT={"initial": 0.05, "maximum": 0.1},
        )
        for kills in (1, 2, 3):
            before = count("published", "default")
            wait_until(
                lambda before=before: count("published", "default") > before + 100,
                20,
                "deliveries",
            )
            server.kill()
            wait_until(
                lambda kills=kills: worker.output.count("is unavailable") >= kills,
                20,
                "the outage to be noticed",
            )
            server.start()
        wait_until(lambda: count("published", "default") == len(names), 30, "every event")
        worker.stop()
        assert worker.end() == 0
        with server.client() as client:
            entries = client.xrange("events")
    arrived = [json.loads(fields["cloud_event"])["subject"] for _, fields in entries]
    assert first_arrivals(arrived) == in_order(names)
    assert len(arrived) - len(names) <= 3 * 10
    assert not OutboxEvent.objects.filter(retry_count__gt=0).exists()


def test_relays_that_keep_being_killed_lose_nothing(
    committing: None, workers: Workers, stream: Stream
) -> None:
    """With relays killed and started over and over under load, everything arrives in order."""
    settings = {"OUTBOX_PUBLISHERS": stream.publishers(REDIS), "OUTBOX_LEASE_SECONDS": 2}
    arguments = ("--batch-size", "10", "--interval", "0.05")
    running = [workers.start("default", *arguments, **settings) for _ in range(3)]
    chance, kills = random.Random(20240229), 4
    with writing("default") as writers:
        for _ in range(kills):
            before = len(stream)
            wait_until(lambda before=before: len(stream) > before + 150, 30, "deliveries")
            running.pop(chance.randrange(3)).kill()
            running.append(workers.start("default", *arguments, **settings))
    wait_until(lambda: count("published", "default") == len(writers.committed), 30, "every event")
    for worker in running:  # one that has not begun dies of the signal
        wait_until(lambda worker=worker: has_begun(worker), 30, "every relay to be there")
        worker.stop()
    assert [worker.end() for worker in running] == [0] * 3
    arrived = stream.names()
    assert first_arrivals(arrived) == in_order(writers.committed)
    assert len(arrived) - len(writers.committed) <= kills * 10
    assert nobody_owns_anything("default")
