"""What other clients of Kafka make of our records: the ones in Java and in JavaScript."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest

from django_broadcaster.backends import KafkaBackend
from django_broadcaster.backends.bindings import canonical
from django_broadcaster.events import CloudEvent
from django_broadcaster.testing import make_message
from tests.support.java import CLOUDEVENTS, run_java
from tests.support.javascript import run_javascript
from tests.support.kafka_server import headers_of, make_topic, records, shared_servers

KEYS = [
    *("a", "ab", "abc", "abcd", "abcde", "order-7", " ", "0", "None"),
    *("schlüssel", "größe/1", "ключ", "鍵", "🔑", "e\u0301", "\u00e9", "a\tb"),
    *(f"schlüssel-{number}" for number in range(50)),
    *("x" * length for length in (255, 256, 1000, 20_000)),
]


@pytest.fixture(scope="module")
def servers() -> str:
    """The address of the shared broker."""
    return shared_servers()


@pytest.fixture
def backend(servers: str) -> Iterator[KafkaBackend]:
    """A backend, which takes the topic from each event."""
    with closing(KafkaBackend(alias="default", bootstrap_servers=servers)) as made:
        yield made


@pytest.mark.shows("key and topic")
def test_keys_are_in_the_partitions_where_java_puts_them(
    servers: str, backend: KafkaBackend
) -> None:
    """The partition of a key is what the client in Java chooses, so that producers agree."""
    ours, javas = (make_topic(servers, partitions=7) for _ in range(2))
    messages = [make_message(partition_key=key, config={"topic": ours}) for key in KEYS]
    assert backend.send_batch(messages) == [None] * len(KEYS)
    run_java("Partitions", servers, javas, given="\n".join(KEYS))
    found = partitions_of(servers, ours)
    assert found.keys() == {key.encode() for key in KEYS}
    assert set(found.values()) == set(range(7))
    assert found == partitions_of(servers, javas)


def partitions_of(servers: str, topic: str) -> Mapping[bytes | None, int | None]:
    """Return the partition of each key in a topic."""
    return {record.key(): record.partition() for record in records(servers, topic)}


@pytest.mark.shows("key and topic")
def test_event_without_a_key_has_no_key(servers: str, backend: KafkaBackend) -> None:
    """Without a partition key the key is null, not empty, so clients spread such events."""
    topic = make_topic(servers)
    backend.send(make_message(partition_key="", config={"topic": topic}))
    (record,) = records(servers, topic)
    assert record.key() is None


# --- CloudEvents -------------------------------------------------------------------------------

TIME = datetime(2024, 2, 29, 12, 0, 0, 5000, tzinfo=UTC)
EVENTS = [
    CloudEvent("order.placed", "/shop/orders", {"größe": [1, None, "ü"]}, id="object", time=TIME),
    CloudEvent("order.placed", "/shop/orders", "text", id="JSON text", time=TIME),
    CloudEvent("order.placed", "/shop/orders", b"\x00\xff", id="bytes", time=TIME),
    CloudEvent(
        *("größe.geändert", "urn:shop:orders", 7),
        id="100 % ü",
        time=TIME,
        subject="größe/1 %20",
        data_schema="https://example.com/schema",
        extensions={
            "partitionkey": "schlüssel",
            "flag": True,
            "count": -7,
            "tracestate": "a=b,c=d",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        },
    ),
]


Read = Callable[[str, str], Sequence[Mapping[str, Any] | None]]


def read_with_java(servers: str, topic: str) -> Sequence[Mapping[str, Any] | None]:
    """Return the events in a topic as the SDK for Java reads them with Kafka's consumer."""
    count = str(len(records(servers, topic)))
    printed = run_java("ReadEvents", servers, topic, count, pom=CLOUDEVENTS)
    return [json.loads(line) for line in printed.splitlines()]


def read_with_javascript(servers: str, topic: str) -> Sequence[Mapping[str, Any] | None]:
    """Return the events in a topic as the SDK for JavaScript reads records."""
    found = [
        {
            "key": (record.key() or b"").decode() or None,
            "headers": {name: value.decode() for name, value in headers_of(record).items()},
            "value": None if value is None else base64.b64encode(value).decode(),
        }
        for record in records(servers, topic)
        for value in [record.value()]
    ]
    printed = run_javascript("readEvents", json.dumps(found))
    return [json.loads(line) for line in printed.splitlines()]


READERS = pytest.mark.parametrize("read", [read_with_java, read_with_javascript])


@pytest.mark.shows("read by the SDKs for Java and JavaScript")
@pytest.mark.parametrize("mode", ["structured", "binary"])
@READERS
def test_other_sdks_read_what_is_in_the_topic(
    servers: str, backend: KafkaBackend, read: Read, mode: str
) -> None:
    """The official SDKs for other languages find each attribute, and the data, as published."""
    topic = make_topic(servers)
    backend.content_mode = mode
    messages = [make_message(event, config={"topic": topic}) for event in EVENTS]
    assert backend.send_batch(messages) == [None] * len(EVENTS)
    for found, event in zip(read(servers, topic), EVENTS, strict=True):
        assert found is not None
        attributes = dict(found["attributes"])
        assert datetime.fromisoformat(attributes.pop("time")) == event.time
        assert attributes == {
            name: canonical(value)
            for name, value in event.to_dict().items()
            if name not in ("time", "data", "data_base64")
        }
        data = base64.b64decode(found["data"])
        assert (data if isinstance(event.data, bytes) else json.loads(data)) == event.data


@pytest.mark.shows("tombstones and compaction")
@READERS
def test_other_sdks_see_no_event_in_a_tombstone(
    servers: str, backend: KafkaBackend, read: Read
) -> None:
    """An event without data, in binary mode, is null to the SDKs, whose handlers must expect it."""
    topic = make_topic(servers)
    backend.content_mode = "binary"
    backend.send(make_message(partition_key="order-7", config={"topic": topic}))
    assert read(servers, topic) == [None]
