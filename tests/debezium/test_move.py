"""The move from a relay to Kafka Connect and back, as the docs describe it, under load."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.core.management import call_command

from django_broadcaster.backends.handler import backends
from django_broadcaster.models import OutboxRelay
from tests.debezium.conftest import (
    BACKEND,
    SLOT,
    clean,
    prepare,
    remove_connector,
    start_connector,
)
from tests.debezium.writer import KEYS
from tests.support.kafka_connect import ConnectServer, kafka_connect
from tests.support.kafka_server import make_topic, records, shared_servers
from tests.support.own_servers import OwnDatabase
from tests.support.waiting import wait_until
from tests.support.workers import Workers, environment, starting_workers

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = [pytest.mark.chaos, pytest.mark.long, pytest.mark.timeout(900)]

SECONDS = 300.0
Writers = list[subprocess.Popen[bytes]]
KAFKA = "django_broadcaster.backends.KafkaBackend"
PARTITIONS = 3


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[ConnectServer]:
    """A worker of Kafka Connect whose producers use transactions, beside the shared broker."""
    with kafka_connect(tmp_path, shared_servers()) as server:
        yield server


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    """A starter of relays."""
    with starting_workers(tmp_path) as started:
        yield started


class Move:
    """The processes of an application that moves."""

    def __init__(self, server: OwnDatabase, workers: Workers, topic: str) -> None:
        self.server = server
        self._workers = workers
        self._started: Writers = []
        self.kafka = {
            "default": {
                "BACKEND": KAFKA,
                "OPTIONS": {"bootstrap_servers": shared_servers(), "topic": topic},
            }
        }
        self.debezium = {"default": {"BACKEND": BACKEND, "OPTIONS": {"topic": topic}}}

    @contextmanager
    def relay(self, publishers: Mapping[str, Any]) -> Iterator[None]:
        """A relay with these settings, which is stopped as by a deployment."""
        relay = self._workers.start("own", OUTBOX_PUBLISHERS=publishers)
        joined = OutboxRelay.objects.using("own").filter(takes_share=True)
        wait_until(joined.exists, SECONDS, "the relay has joined")
        yield
        relay.stop()
        assert relay.end() == 0, relay.output

    def start_writers(self, publishers: Mapping[str, Any], *seeds: int, count: int) -> Writers:
        """Start publishers with these settings, each of which publishes so many events."""
        env = environment("own", {"OUTBOX_PUBLISHERS": publishers})
        command = [sys.executable, "-m", "tests.debezium.writer"]
        started = [subprocess.Popen([*command, str(seed), str(count)], env=env) for seed in seeds]
        self._started += started
        return started

    def end(self) -> None:
        """Kill what still runs."""
        for each in self._started:
            each.kill()
            each.wait()

    def pause(self) -> None:
        """Pause the backend."""
        call_command("outbox_pause", "default", "--database", "own")

    def resume(self) -> None:
        """Resume it."""
        call_command("outbox_resume", "default", "--database", "own")

    def committed(self) -> int:
        """Return how many events were committed."""
        ((count,),) = self.server.execute("SELECT sum(n) FROM counters")
        return int(count)

    def wait_for(self, more: int) -> None:
        """Wait until so many more events are committed."""
        least = self.committed() + more
        wait_until(lambda: self.committed() >= least, SECONDS, f"{more} more events")


@pytest.fixture
def move(
    postgres: OwnDatabase, workers: Workers, settings: Settings, django_db_blocker: Any
) -> Iterator[Move]:
    """An application with a table of the numbers that it has published, and a topic."""
    with django_db_blocker.unblock():
        postgres.execute("CREATE TABLE counters (key text PRIMARY KEY, n int NOT NULL DEFAULT 0)")
        values = ", ".join(f"('{key}')" for key in KEYS)
        postgres.execute(f"INSERT INTO counters (key) VALUES {values}")
        found = Move(postgres, workers, make_topic(shared_servers(), PARTITIONS))
        settings.OUTBOX_PUBLISHERS = found.debezium
        backends.reset()
        yield found
        found.end()
        postgres.execute("DROP TABLE counters")
        postgres.execute("TRUNCATE django_broadcaster_outboxevent")
        clean(postgres)


def break_connect(connect: ConnectServer, move: Move) -> Iterator[Callable[[], object]]:
    """Yield what is broken one after the other, while events come in."""
    yield connect.kill
    yield connect.start
    ends = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active"
    yield lambda: move.server.execute(ends)
    yield lambda: connect.call("POST", f"/connectors/{SLOT}/restart?includeTasks=true")
    yield connect.kill
    yield connect.start


def test_a_move_to_kafka_connect_and_back_loses_doubles_and_reorders_nothing(
    move: Move, connect: ConnectServer
) -> None:
    """20,000 events of 40 keys with rollbacks; Kafka Connect and its connector are killed."""
    before = move.start_writers(move.kafka, 1, 2, count=3500)
    with move.relay(move.kafka):
        move.wait_for(1000)
        prepare(move.server)
        start_connector(connect)
        move.pause()
    with move.relay(move.debezium):
        move.resume()
        move.wait_for(500)
        meanwhile = move.start_writers(move.debezium, 3, 4, count=5000)
        for cause in break_connect(connect, move):
            move.wait_for(500)
            cause()
        join(before)
        join(meanwhile)
        connect.wait_until_running(SLOT)
        after = move.start_writers(move.kafka, 5, count=3500)
        move.wait_for(100)
        move.pause()
    call_command("outbox_debezium", "--wait", "300", "--database", "own")
    remove_connector(connect)
    with move.relay(move.kafka):
        move.resume()
        join(after)
        numbers = move.server.execute("SELECT key, n FROM counters")
        assert move.committed() >= 20_000
        wait_until(lambda: count_of(move) >= move.committed(), SECONDS, "all have arrived")
    found = numbers_of(move)
    wrong = {
        key: _first_difference(found.get(key, []), n)
        for key, n in numbers
        if found.get(key) != list(range(1, n + 1))
    }
    assert not wrong


def _first_difference(found: list[int], last: int) -> tuple[list[int], int]:
    """Return the numbers around the first one that is not the next, and the last number."""
    place = next((at for at, number in enumerate(found) if number != at + 1), len(found))
    return found[max(0, place - 3) : place + 5], last


def join(writers: Writers) -> None:
    """Wait until publishers have ended."""
    assert [each.wait(SECONDS) for each in writers] == [0] * len(writers)


def count_of(move: Move) -> int:
    """Return how many records the topic has."""
    return sum(map(len, numbers_of(move).values()))


def numbers_of(move: Move) -> dict[str, list[int]]:
    """Return the numbers of each key in the order of the topic."""
    topic = move.debezium["default"]["OPTIONS"]["topic"]
    found: dict[str, list[int]] = {}
    for record in records(shared_servers(), topic):
        key, value = record.key() or b"", record.value() or b""
        found.setdefault(key.decode(), []).append(int(value[value.index(b'"data":') + 7 : -1]))
    return found
