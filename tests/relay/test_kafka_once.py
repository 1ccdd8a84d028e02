"""Relays that send in transactions of Kafka: a reader of committed records sees no event twice."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.db import connections

from django_broadcaster.models import OutboxEvent, OutboxPartition
from tests.support.backends import Gate
from tests.support.events import count, first_arrivals, publish, publish_many
from tests.support.kafka_server import KafkaServer, kafka_server, make_topic, shared_servers
from tests.support.kafka_transactions import STEPS, TAKING_OVER, committed_names
from tests.support.own_servers import OwnDatabase, own_instance, running, service_like
from tests.support.waiting import wait_until
from tests.support.workers import Worker, Workers

KAFKA = "django_broadcaster.backends.KafkaBackend"
DICING = "tests.support.kafka_transactions.DicingBackend"
STEP = "tests.support.kafka_transactions.StepBackend"
KILLS = int(os.environ.get("BROADCASTER_KILLS", "40"))
SETTLED = "settling them without sending them again"
BATCH = 20
KEYS = [f"{first}{second}" for first in "abcdef" for second in "abcdef"]
STALL_SECONDS = 4.0
"""Twice the time of a lease."""

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"django_broadcaster.relay": {"level": "INFO", "handlers": ["console"]}},
}
pytestmark = pytest.mark.chaos


class Topic:
    """A topic of three partitions, and relays that send there in transactions."""

    def __init__(self, servers: str) -> None:
        self.servers = servers
        self.name = make_topic(servers, 3)
        self._transactional_id = f"test-{uuid4()}"

    def settings(self, backend: str = KAFKA, **options: Any) -> dict[str, Any]:
        """Return the settings of a relay."""
        ours = {
            "bootstrap_servers": self.servers,
            "topic": self.name,
            "transactional_id": self._transactional_id,
            **options,
        }
        return {
            "OUTBOX_PUBLISHERS": {"default": {"BACKEND": backend, "OPTIONS": ours}},
            "OUTBOX_LEASE_SECONDS": 2,
            "OUTBOX_POLL_INTERVAL": 0.1,
            "OUTBOX_MAX_CRASHES": 1000,  # the kills are no fault of an event
            "OUTBOX_CIRCUIT": {"initial": 0.05, "maximum": 0.5},
            "LOGGING": LOGGING,
        }

    def assert_has(self, names: list[str]) -> None:
        """Assert that readers see each of these events once, those of each key in order."""
        arrived = committed_names(self.servers, self.name)
        assert len(arrived) == len(set(arrived))
        assert first_arrivals(arrived) == first_arrivals(names)


@pytest.fixture
def own(
    django_db_setup: None, committing: None, django_db_blocker: pytest.FixtureRequest
) -> Iterator[OwnDatabase]:
    """A server of PostgreSQL that only this test uses."""
    with own_instance(service_like("postgres")) as instance, running(instance) as server:
        yield server


@pytest.fixture
def topic() -> Topic:
    """A topic on the shared broker."""
    return Topic(shared_servers())


@pytest.mark.parametrize("step", STEPS)
def test_relay_that_is_killed_at_a_step(
    database: str, topic: Topic, workers: Workers, tmp_path: Path, step: str
) -> None:
    """Wherever SIGKILL hits a transaction, the next relay sends what is missing, and no more."""
    names = publish_many(100, database, keys=8)
    trap = {"at": names[50], "step": step, "folder": str(tmp_path), "waits": False}
    arguments = ("--drain", "--database", database, "--batch-size", str(BATCH))
    assert workers.start(database, *arguments, **topic.settings(STEP, **trap)).end() == -9
    last = workers.start(database, *arguments, **topic.settings())
    assert last.end() == 0, last.output
    topic.assert_has(names)
    assert count("published", database) == len(names)
    assert (SETTLED in last.output) == (step == "after commit_transaction")


def test_relay_that_is_killed_while_it_takes_over(
    database: str, topic: Topic, workers: Workers, tmp_path: Path
) -> None:
    """The one after it takes over from the first relay: nothing was claimed yet."""
    names = publish_many(100, database, keys=8)
    arguments = ("--drain", "--database", database, "--batch-size", str(BATCH))
    for step in ("after commit_transaction", TAKING_OVER):
        folder = tmp_path / step
        folder.mkdir()
        trap = {"at": names[50], "step": step, "folder": str(folder), "waits": False}
        assert workers.start(database, *arguments, **topic.settings(STEP, **trap)).end() == -9
    last = workers.start(database, *arguments, **topic.settings())
    assert last.end() == 0, last.output
    assert SETTLED in last.output
    topic.assert_has(names)


@pytest.mark.parametrize("step", [*STEPS, TAKING_OVER])
def test_relay_that_is_suspended_past_its_lease(
    topic: Topic, committing: None, workers: Workers, tmp_path: Path, step: str
) -> None:
    """What it wakes up to send is not accepted any more; then it goes on under a new lease."""
    database = "default"
    names = publish_many(100, database, keys=8)
    trap = {"at": names[50], "step": step, "folder": str(tmp_path), "waits": True}
    arguments = ("--database", database, "--batch-size", str(BATCH))
    if step == TAKING_OVER:  # somebody has to be there before
        OutboxPartition.objects.create(number=0, backend="default", sent_by=1)
    stalled = workers.start(database, *arguments, **topic.settings(STEP, **trap))
    gate = Gate(tmp_path)
    wait_until(gate.arrived.exists, 30, "the relay is at the step")
    stalled.freeze()
    other = workers.start(database, "--drain", *arguments, **topic.settings())
    assert other.end() == 0, other.output
    gate.open()
    stalled.thaw()
    names += publish_many(100, database, keys=8, first=100)
    wait_until(lambda: count("published", database) == len(names), 30, "all is delivered")
    wait_until(lambda: "Lease lost" in stalled.output, 30, "the relay notices")
    stalled.stop()
    assert stalled.end() == 0, stalled.output
    topic.assert_has(names)


def test_event_that_is_replayed_is_sent_again(
    database: str, topic: Topic, workers: Workers, tmp_path: Path
) -> None:
    """It is sent, although the last position of a relay that crashed has the event."""
    names = publish_many(20, database, keys=4)
    crashing = workers.start(database, "--database", database, **topic.settings())
    wait_until(lambda: count("published", database) == len(names), 30, "all is delivered")
    crashing.kill()
    replayed = OutboxEvent.objects.using(database).filter(subject=names[7])
    assert replayed.replay() == 1
    replayed.update(status="pending")  # as if the relay had done that before it crashed
    assert OutboxPartition.objects.using(database).exclude(sent_by=None).exists()

    last = workers.start(database, "--drain", "--database", database, **topic.settings())
    assert last.end() == 0, last.output
    arrived = committed_names(topic.servers, topic.name)
    assert sorted(arrived) == sorted([*names, names[7]])


def test_relay_that_stops_leaves_nothing_to_take_over(
    database: str, topic: Topic, workers: Workers
) -> None:
    """After SIGTERM all is settled, so the next relay does not ask Kafka what it had sent."""
    names = publish_many(20, database, keys=4)
    worker = workers.start(database, "--database", database, **topic.settings())
    wait_until(lambda: count("published", database) == len(names), 30, "all is delivered")
    assert OutboxPartition.objects.using(database).exclude(sent_by=None).exists()
    worker.stop()
    assert worker.end() == 0, worker.output
    assert not OutboxPartition.objects.using(database).exclude(sent_by=None).exists()
    topic.assert_has(names)


class Publisher(threading.Thread):
    """Publishes events of many keys, in transactions of five, until it is stopped."""

    def __init__(self, database: str) -> None:
        super().__init__()
        self.committed: list[str] = []
        self.failure: BaseException | None = None
        self._database = database
        self._stopping = threading.Event()

    def run(self) -> None:
        """Publish."""
        number = 0
        try:
            while not self._stopping.wait(0.04):
                names = [f"{KEYS[each % len(KEYS)]}{each}" for each in range(number, number + 5)]
                try:
                    publish(*names, using=self._database)
                except Exception:  # the database restarts: the transaction did not commit
                    connections[self._database].close()
                    if not self._has(names):
                        continue
                self.committed += names
                number += 5
        except BaseException as error:
            self.failure = error
        finally:
            connections.close_all()

    def _has(self, names: list[str]) -> bool:
        """Return True if the transaction of these events has committed all the same."""

        def answer() -> bool:
            try:
                found.append(
                    OutboxEvent.objects.using(self._database).filter(subject=names[0]).exists()
                )
            except Exception:
                connections[self._database].close()
                return False
            return True

        found: list[bool] = []
        wait_until(answer, 60, "the database answers again")
        return found[-1]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Publish for the time of the block."""
        self.start()
        try:
            yield
        finally:
            self._stopping.set()
            self.join(60)
        assert not self.is_alive()
        assert self.failure is None


def survive(
    database: str,
    topic: Topic,
    workers: Workers,
    restarts: dict[int, Callable[[], object]],
) -> None:
    """Kill and suspend relays under load, KILLS times; `restarts` happen after some of the kills.

    Relays die at any step of a transaction, or else from outside. At the end each event is there
    once, and in order.
    """
    arguments = ("--database", database, "--batch-size", "5")
    settings = topic.settings(DICING, chance=0.02)
    chance = random.Random(20261130)

    def start() -> Worker:
        return workers.start(database, *arguments, **settings)

    relays = [start() for _ in range(4)]
    suspended: list[tuple[float, Worker]] = []
    by_themselves = 0
    publisher = Publisher(database)
    began = time.monotonic()
    with publisher.running():
        for kill in range(1, KILLS + 1):
            place = _wait_for_a_death(relays, chance.uniform(0.2, 1.2))
            while suspended and suspended[0][0] < time.monotonic():
                suspended.pop(0)[1].thaw()
            if place is not None:
                by_themselves += 1
            else:
                wait_until(lambda: _joined(relays), 120, "a relay has joined")
                place = chance.choice(_joined(relays))
                if kill % 3 == 0:
                    with suppress(ChildProcessError):  # it has just died
                        relays[place].freeze()
                        suspended.append((time.monotonic() + STALL_SECONDS, relays[place]))
                else:
                    relays[place].kill()
            relays[place] = start()
            if restart := restarts.get(kill):
                restart()
    for _, worker in suspended:
        worker.thaw()
    for worker in workers.started:
        worker.kill()
    settings = topic.settings()
    relays = [start() for _ in range(2)]

    def is_done() -> bool:
        return not OutboxEvent.objects.using(database).exclude(status="published").exists()

    wait_until(is_done, 120, "all is delivered")
    for worker in relays:
        worker.stop()
    assert [worker.end() for worker in relays] == [0] * len(relays)
    topic.assert_has(publisher.committed)
    outputs = [worker.output for worker in workers.started]
    figures = {
        "kills and suspensions": KILLS,
        "of them at a step of a transaction": by_themselves,
        "events": len(publisher.committed),
        "seconds": round(time.monotonic() - began),
        "take-overs": sum(each.count("Took over the partitions") for each in outputs),
        "batches that were there already": sum(each.count(SETTLED) for each in outputs),
    }
    print(figures)


def _joined(relays: Sequence[Worker]) -> list[int]:
    """Return the places of those relays that deliver: a kill shows nothing of the others."""
    return [place for place, worker in enumerate(relays) if "joined with" in worker.output]


def _wait_for_a_death(relays: Sequence[Worker], seconds: float) -> int | None:
    """Return the place of a relay that has died; None if none does within that time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for place, worker in enumerate(relays):
            if not worker.runs:
                return place
        threading.Event().wait(0.02)
    return None


@pytest.mark.timeout(300 + 4 * KILLS)
def test_relays_broker_and_database_that_keep_being_killed(
    own: OwnDatabase, workers: Workers, tmp_path: Path
) -> None:
    """Each event is there once and in order, whatever is killed, suspended and restarted."""
    folder = tmp_path / "kafka"
    folder.mkdir()
    with kafka_server(folder) as server:
        restarts = _restarts(server, own)
        survive(own.alias, Topic(server.servers), workers, restarts)


def _restarts(server: KafkaServer, own: OwnDatabase) -> dict[int, Callable[[], object]]:
    """Restart the broker and the database alternately, after each eighth of the kills."""
    each = max(1, KILLS // 8)
    return {
        kill: server.restart if place % 2 else own.restart
        for place, kill in enumerate(range(each, KILLS + 1, each))
    }
