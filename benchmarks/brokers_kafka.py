"""The relay to Kafka beside a bare loop with the same client, on a broker of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from tests.support.kafka_server import kafka_server, make_topic

from . import bare, outbox, relays
from .measure import Figure, compare

PARTITIONS = 4
_HEADERS = [("content-type", b"application/cloudevents+json")]


def measure(runs: int, events: int) -> list[Figure]:
    """Compare one relay in the default content mode, with Apache Kafka on the same processors."""
    return [
        compare(
            "relay, Kafka",
            partial(_on_backlog, events, _relay),
            partial(_on_backlog, events, _bare),
            wanted=">= 0.95",
            runs=runs,
        ),
        compare(
            "relay, Kafka, in transactions beside without",
            partial(_on_backlog, events, partial(_relay, transactional_id="bench")),
            partial(_on_backlog, events, _relay),
            runs=runs,
        ),
    ]


def _on_backlog(events: int, drain: Callable[[str, str], float]) -> float:
    """Drain a fresh backlog to a fresh broker."""
    with tempfile.TemporaryDirectory() as folder, kafka_server(Path(folder)) as server:
        topic = make_topic(server.servers, PARTITIONS)
        return outbox.on_backlog(events, partial(drain, server.servers, topic))


def _relay(servers: str, topic: str, **options: str) -> float:
    return relays.drain_to("KafkaBackend", bootstrap_servers=servers, topic=topic, **options)


def _bare(servers: str, topic: str) -> float:
    """Send every pending event, one flush for a batch; return events a second."""
    config = {"bootstrap.servers": servers, "acks": "all", "enable.idempotence": True}
    producer = Producer(config)
    producer.poll(0.05)
    producer.list_topics(topic, timeout=10)
    return bare.drain(partial(_send, producer, topic))


def _send(producer: Producer, topic: str, rows: Sequence[Any]) -> None:
    failed = []

    def report(error: object, _: object) -> None:
        if error is not None:
            failed.append(error)

    for row in rows:
        key = row[-1].encode()
        producer.produce(topic, bare.envelope(row), key, headers=_HEADERS, on_delivery=report)
    if producer.flush(30) or failed:
        raise RuntimeError(f"not everything was sent: {failed[:1]}")
