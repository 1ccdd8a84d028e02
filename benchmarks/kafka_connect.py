"""The relay to Kafka beside Kafka Connect with Debezium: the same events, database and broker.

The database is a PostgreSQL of our own with `wal_level` logical, and the broker one of our own.
Kafka Connect has the options of Java of Kafka's scripts. Both are measured after they have started
and delivered a fifth of the events. They are paused while the backlog is written.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Self

import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from django.core.management import call_command
from django.test.utils import override_settings

from django_broadcaster.publishers import publisher
from tests.debezium.conftest import SLOT, clean, prepare, start_connector
from tests.support.kafka_connect import kafka_connect, logical_postgres
from tests.support.kafka_server import KafkaServer, kafka_server, make_topic
from tests.support.own_servers import OwnDatabase, as_alias
from tests.support.waiting import wait_until

from . import outbox, pacing, relays
from .brokers_kafka import PARTITIONS
from .measure import Figure, of_pairs

RATE = 100
COUNT = 500
IDLE_SECONDS = 5.0
SECONDS = 120.0
PER_TRANSACTION = 1000

JAVA = (
    *("-Xms256m", "-Xmx2g", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"),
    *("-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent"),
)
"""What `connect-distributed.sh` of Kafka gives to Java."""

AT_LEAST_ONCE = "exactly.once.source.support=disabled\noffset.flush.interval.ms=60000\n"
"""The defaults of Kafka Connect. Those of the tests make it send each event once."""


@dataclass(frozen=True, slots=True)
class _Place:
    """The servers that both share, and the topic of one of them."""

    database: OwnDatabase
    broker: KafkaServer
    topic: str
    once: bool


@dataclass(frozen=True, slots=True)
class _Running:
    """A relay or a Kafka Connect: its process, and how it is paused."""

    pid: int
    pause: Callable[[], object]
    resume: Callable[[], object]


@dataclass(frozen=True, slots=True)
class _Measured:
    """What was measured of one; microseconds are of processor time, and of each event."""

    rate: float
    p50: float
    p99: float
    own_us: float
    database_us: float
    publishing_us: float
    broker_us: float
    idle_percent: float
    megabytes: float


_FIGURES = {
    "rate": ("a backlog", "events/s", ">= 1.0"),
    "p50": (f"p50 at {RATE}/s", "ms", ""),
    "p99": (f"p99 at {RATE}/s", "ms", ""),
    "own_us": ("processor: relay, Kafka Connect", "us", ""),
    "database_us": ("processor: database, delivering", "us", ""),
    "publishing_us": ("processor: database, publishing", "us", ""),
    "broker_us": ("processor: broker", "us", ""),
    "idle_percent": ("idle: of a core", "%", ""),
    "megabytes": ("memory", "MB", "<= 0.1"),
}
"""The name, the unit and the goal of each figure."""

Deliverer = Callable[[_Place], AbstractContextManager[_Running]]


def kafka_connect_beside_relay(runs: int, events: int) -> list[Figure]:
    """Compare the relay with Kafka Connect, at least once and each event once."""
    found: dict[bool, list[tuple[_Measured, _Measured]]] = {False: [], True: []}
    with (
        tempfile.TemporaryDirectory() as folder,
        logical_postgres() as database,
        as_alias("default", database.place),
        kafka_server(Path(folder)) as broker,
    ):
        for run in range(runs):
            for once, pairs in found.items():

                def measured(deliverer: Deliverer, once: bool = once) -> _Measured:
                    topic = make_topic(broker.servers, PARTITIONS)
                    return _measure(_Place(database, broker, topic, once), deliverer, events)

                if run % 2:
                    pairs.append((measured(_relay), measured(_connect)))
                else:  # other load affects both, whoever is first
                    theirs = measured(_connect)
                    pairs.append((measured(_relay), theirs))
    return [
        of_pairs(
            f"{'each event once' if once else 'at least once'}: {what}",
            [(getattr(ours, name), getattr(theirs, name)) for ours, theirs in pairs],
            unit=unit,
            wanted=wanted,
        )
        for once, pairs in found.items()
        for name, (what, unit, wanted) in _FIGURES.items()
    ]


def _measure(place: _Place, deliverer: Deliverer, events: int) -> _Measured:
    outbox.empty()
    with deliverer(place) as running, _Topic(place) as topic:
        _backlog(place, running, topic, max(events // 5, 100))
        rate, *costs = _backlog(place, running, topic, events)
        p50, p99 = _latency(topic)
        idle = _idle(running)
        return _Measured(rate, p50, p99, *costs, idle, relays.peak_megabytes(running.pid))


# The two


@contextmanager
def _relay(place: _Place) -> Iterator[_Running]:
    """One relay process with the KafkaBackend."""
    options: dict[str, Any] = {"bootstrap_servers": place.broker.servers, "topic": place.topic}
    if place.once:
        options["transactional_id"] = place.topic
    publishers = _publishers("KafkaBackend", options)
    environment = {
        "BENCH_PUBLISHERS": json.dumps(publishers),
        "BENCH_NAME": place.database.place["NAME"],
        "BROADCASTER_POSTGRES_URL": place.database.instance.url,
    }
    with override_settings(OUTBOX_PUBLISHERS=publishers):
        workers = relays.start(environment=environment)
        try:
            relays.wait_for_leases(1)
            yield _Running(
                workers[0].pid,
                pause=lambda: call_command("outbox_pause", "default", stdout=StringIO()),
                resume=lambda: call_command("outbox_resume", "default", stdout=StringIO()),
            )
        finally:
            relays.stop(workers)


@contextmanager
def _connect(place: _Place) -> Iterator[_Running]:
    """One worker of Kafka Connect with Debezium's connector, and no relay."""
    config = "" if place.once else AT_LEAST_ONCE
    with (
        override_settings(OUTBOX_PUBLISHERS=_publishers("DebeziumBackend", {"topic": place.topic})),
        tempfile.TemporaryDirectory() as folder,
        _slot(place),
        kafka_connect(Path(folder), place.broker.servers, config, JAVA) as server,
    ):
        start_connector(server)
        connector = f"/connectors/{SLOT}"

        def pause() -> None:
            server.put(f"{connector}/stop")
            wait_until(lambda: server.has_stopped(SLOT), SECONDS, "the connector stops")

        yield _Running(server.pid, pause, lambda: server.put(f"{connector}/resume"))


@contextmanager
def _slot(place: _Place) -> Iterator[None]:
    """A role and a replication slot for the connector."""
    prepare(place.database)
    try:
        yield
    finally:
        clean(place.database)


def _publishers(backend: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "default": {"BACKEND": f"django_broadcaster.backends.{backend}", "OPTIONS": {**options}}
    }


# What is measured


@dataclass(frozen=True, slots=True)
class _Reading:
    """The seconds of processor time at a moment."""

    own: float
    sessions: Mapping[int, float]
    broker: float


def _read(place: _Place, running: _Running) -> _Reading:
    return _Reading(
        relays.cpu(running.pid),
        relays.sessions(),
        relays.cpu(place.broker.pid),
    )


def _backlog(
    place: _Place, running: _Running, topic: _Topic, events: int
) -> tuple[float, float, float, float, float]:
    """Deliver a backlog; return its rate, and the microseconds of an event.

    The rate is from the first event that the consumer has until it has the last one. The processor
    time begins when it is resumed, because both read ahead.
    """
    running.pause()
    before = relays.sessions()
    _publish(events)
    publishing = relays.used(before, relays.sessions())
    outbox.maintenance()
    start = _read(place, running)
    running.resume()
    topic.take(1)
    first, left = time.perf_counter(), events - 1
    while left:
        left -= len(topic.take(left))
    last = time.perf_counter()
    end = _read(place, running)
    seconds = (
        end.own - start.own,
        relays.used(start.sessions, end.sessions),
        publishing,
        end.broker - start.broker,
    )
    own, database, publishing, broker = (each / events * 1e6 for each in seconds)
    return (events - 1) / (last - first), own, database, publishing, broker


def _publish(events: int) -> None:
    """Publish events, many in each transaction."""
    for start in range(0, events, PER_TRANSACTION):
        publisher.publish_events(
            {
                "event_type": "order.placed",
                "source": "/bench/orders",
                "subject": f"order {number}",
                "data": outbox.data(number),
                "partition_key": f"key-{number % 1000}",
            }
            for number in range(start, min(start + PER_TRANSACTION, events))
        )


def _latency(topic: _Topic) -> tuple[float, float]:
    """Publish at a steady rate; return p50 and p99 from commit to consumer in milliseconds."""
    arrived: dict[str, float] = {}

    def read() -> None:
        while len(arrived) < COUNT:
            (event_id,) = topic.take(1)
            arrived[event_id] = time.perf_counter()

    reader = threading.Thread(target=read)
    reader.start()
    committed = pacing.publish_steadily(RATE, COUNT)
    reader.join(SECONDS)
    return pacing.percentiles(committed, arrived)


def _idle(running: _Running) -> float:
    """Return the percentage of a core that one uses without any event."""
    before = relays.cpu(running.pid)
    time.sleep(IDLE_SECONDS)
    return (relays.cpu(running.pid) - before) / IDLE_SECONDS * 100


# The consumer


class _Topic:
    """A consumer of committed records from the beginning of a topic; a context manager.

    Kafka Connect may send events again when it is resumed. Each counts once.
    """

    def __init__(self, place: _Place) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": place.broker.servers,
                "group.id": place.topic,
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
            }
        )
        self._consumer.assign(
            [TopicPartition(place.topic, each, OFFSET_BEGINNING) for each in range(PARTITIONS)]
        )
        self._seen: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def take(self, most: int) -> Sequence[str]:
        """Return the ids of the next events, at least one; raise TimeoutError if none arrives."""
        deadline = time.monotonic() + SECONDS
        while not (new := [each for each in self._ids(most) if each not in self._seen]):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no event within {SECONDS:g} s")
        self._seen.update(new)
        return new

    def _ids(self, most: int) -> Iterator[str]:
        for record in self._consumer.consume(min(most, 1000), 0.05):
            if (error := record.error()) is not None:
                raise RuntimeError(f"the consumer failed: {error}")
            yield orjson.loads(record.value() or b"")["id"]
