"""The relay to Kafka beside a bare loop with the same client, on a broker of its own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import psycopg
from confluent_kafka import Producer
from django.test.utils import override_settings
from psycopg import pq

from tests.support.kafka_server import kafka_server, make_topic

from . import outbox, relays
from .bare import _FETCH, _UPDATE, BATCH
from .measure import Figure, compare

PARTITIONS = 4
_HEADERS = [("content-type", b"application/cloudevents+json")]


def measure(runs: int, events: int) -> list[Figure]:
    """One relay in the default content mode; the broker keeps what it is sent in memory."""
    return [
        compare(
            "relay, Kafka",
            _on_backlog(_relay, events),
            _on_backlog(_bare, events),
            wanted=">= 0.75",
            runs=runs,
        )
    ]


def _on_backlog(measure: Callable[[str, str], float], events: int) -> Callable[[], float]:
    """Return the measurement with a fresh backlog and a fresh broker before it."""

    def on_backlog() -> float:
        outbox.empty()
        outbox.fill(events)
        with tempfile.TemporaryDirectory() as folder, kafka_server(Path(folder)) as server:
            return measure(server.servers, make_topic(server.servers, PARTITIONS))

    return on_backlog


def _relay(servers: str, topic: str) -> float:
    publishers = {
        "default": {
            "BACKEND": "django_broadcaster.backends.KafkaBackend",
            "OPTIONS": {"bootstrap_servers": servers, "topic": topic},
        }
    }
    with override_settings(OUTBOX_PUBLISHERS=publishers):
        return relays.drain()


def _bare(servers: str, topic: str) -> float:
    """Send every pending event, one flush for a batch; return events a second."""
    config = {"bootstrap.servers": servers, "acks": "all", "enable.idempotence": True}
    producer = Producer(config)
    producer.poll(0.05)
    producer.list_topics(topic, timeout=10)
    count, last = 0, 0
    with psycopg.connect(**outbox.address()) as database:
        cursor = psycopg.Cursor(database)
        cursor.format = pq.Format.BINARY
        began = time.perf_counter()
        while rows := cursor.execute(_FETCH, [last, BATCH]).fetchall():
            _send(producer, topic, rows)
            cursor.execute(_UPDATE, [[row[0] for row in rows]])
            database.commit()
            count += len(rows)
            last = rows[-1][0]
        elapsed = time.perf_counter() - began
    return count / elapsed


def _send(producer: Producer, topic: str, rows: list[tuple]) -> None:
    failed = []

    def report(error: object, _: object) -> None:
        if error is not None:
            failed.append(error)

    for _, event_id, source, event_type, subject, moment, content_type, data, key in rows:
        envelope = orjson.dumps(
            {
                "specversion": "1.0",
                "id": event_id,
                "source": source,
                "type": event_type,
                "subject": subject,
                "time": moment,
                "datacontenttype": content_type,
                "partitionkey": key,
                "data": orjson.Fragment(data),
            }
        )
        producer.produce(topic, envelope, key.encode(), headers=_HEADERS, on_delivery=report)
    if producer.flush(30) or failed:
        raise RuntimeError(f"not everything was sent: {failed[:1]}")
