"""Events on real brokers, as our own readers and the official SDK find them there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
import redis
from cloudevents.core.bindings import amqp, http, kafka, rabbitmq
from cloudevents.core.formats.json import JSONFormat

from django_broadcaster.backends import (
    KafkaBackend,
    MessageBackend,
    MQTTBackend,
    NATSBackend,
    RabbitMQBackend,
    RedisStreamBackend,
    WebhookBackend,
)
from django_broadcaster.backends.bindings import canonical
from django_broadcaster.events import CloudEvent
from django_broadcaster.testing import make_message
from django_broadcaster.testing.contract import EVENTS
from tests.support import kafka_server, mosquitto_server, nats_server, rabbitmq_server, redis_server
from tests.support.webhook_server import webhook_server

pytestmark = pytest.mark.django_db

INNER = {"specversion": "1.0", "id": "INNER", "source": "/inner", "type": "inner"}
STRUCTURED = "application/cloudevents+json"


class Found(NamedTuple):
    """A message as another client than ours read it."""

    headers: Any
    body: Any
    content_type: str | None = None


Place = tuple[Callable[..., MessageBackend], Callable[[], Sequence[Found]]]


@contextmanager
def _kafka() -> Iterator[Place]:
    servers = kafka_server.shared_servers()
    topic = kafka_server.make_topic(servers)

    def make(**options: Any) -> MessageBackend:
        return KafkaBackend(alias="default", bootstrap_servers=servers, topic=topic, **options)

    def read() -> Sequence[Found]:
        return [
            Found(record.headers(), record.value())
            for record in kafka_server.records(servers, topic)
        ]

    yield make, read


@contextmanager
def _rabbitmq() -> Iterator[Place]:
    url, name = rabbitmq_server.shared_url(), f"test-{uuid4().hex}"

    def make(**options: Any) -> MessageBackend:
        return RabbitMQBackend(alias="default", url=url, exchange=name, queue=name, **options)

    def read() -> Sequence[Found]:
        return [
            Found(each.headers, each.body, each.properties.content_type)
            for each in rabbitmq_server.take(url, name)
        ]

    yield make, read
    rabbitmq_server.remove(url, name)


@contextmanager
def _amqp() -> Iterator[Place]:
    with _rabbitmq() as (make, read):
        yield lambda **options: make(header_prefix="cloudEvents_", **options), read


@contextmanager
def _nats() -> Iterator[Place]:
    url, name = nats_server.shared_url(), f"test-{uuid4()}"

    def make(**options: Any) -> MessageBackend:
        return NATSBackend(
            alias="default", servers=url, stream=name, subject=name, create_stream=True, **options
        )

    def read() -> Sequence[Found]:
        return [Found(each.headers, each.data) for each in nats_server.stored(url, name)]

    yield make, read
    nats_server.delete_stream(url, name)


@contextmanager
def _mqtt() -> Iterator[Place]:
    (host, port), root = mosquitto_server.shared_address(), f"test/{uuid4().hex}"
    with mosquitto_server.subscriber((host, port), root) as subscriber:

        def make(**options: Any) -> MessageBackend:
            return MQTTBackend(
                alias="default", host=host, port=port, topic=f"{root}/all", **options
            )

        def read() -> Sequence[Found]:
            return [
                Found(each.headers, each.payload, each.content_type) for each in subscriber.read()
            ]

        yield make, read


@contextmanager
def _webhook() -> Iterator[Place]:
    with webhook_server() as server:

        def make(**options: Any) -> MessageBackend:
            return WebhookBackend(alias="default", url=server.url, allow_private=True, **options)

        yield make, lambda: [Found(each.headers, each.body) for each in server.requests]


@contextmanager
def _redis() -> Iterator[Place]:
    url, stream = redis_server.shared_url(), f"test-{uuid4()}"
    with redis.Redis.from_url(url) as client:

        def make(**options: Any) -> MessageBackend:
            return RedisStreamBackend(alias="default", url=url, stream_name=stream, **options)

        def read() -> Sequence[Found]:
            return [_as_kafka(fields) for _, fields in client.xrange(stream)]

        yield make, read
        client.delete(stream)


def _as_kafka(fields: Mapping[bytes, bytes]) -> Found:
    """An entry in the terms of Kafka: there is no binding for Redis, and the names are Kafka's."""
    if b"cloud_event" in fields:
        return Found({"content-type": STRUCTURED}, fields[b"cloud_event"])
    headers = {name.decode(): value for name, value in fields.items()}
    data = headers.pop("data", None)
    if "content_type" in headers:
        headers["content-type"] = headers.pop("content_type")
    return Found(headers, data)


PLACES: Mapping[str, Callable[[], Any]] = {
    "kafka": _kafka,
    "rabbitmq": _rabbitmq,
    "amqp": _amqp,
    "nats": _nats,
    "mqtt": _mqtt,
    "webhook": _webhook,
    "redis": _redis,
}
READERS: Mapping[str, Callable[[Found], CloudEvent]] = {
    "kafka": lambda found: CloudEvent.from_kafka(found.headers, found.body),
    "rabbitmq": lambda found: CloudEvent.from_amqp(*found),
    "amqp": lambda found: CloudEvent.from_amqp(*found),
    "nats": lambda found: CloudEvent.from_nats(found.headers, found.body),
    "mqtt": lambda found: CloudEvent.from_mqtt(*found),
    "webhook": lambda found: CloudEvent.from_http(found.headers, found.body),
    "redis": lambda found: CloudEvent.from_kafka(found.headers, found.body),
}


def _sdk_kafka(found: Found) -> Any:
    return kafka.from_kafka(
        kafka.KafkaMessage(dict(found.headers), None, found.body or b""), JSONFormat()
    )


def _sdk_http(found: Found, prefix: str = "") -> Any:
    headers = {f"{prefix}{name}": value for name, value in found.headers.items()}
    if found.content_type:
        headers["content-type"] = found.content_type
    return http.from_http(http.HTTPMessage(headers, found.body), JSONFormat())


def _sdk_nats(found: Found) -> Any:
    """The SDK has no binding for NATS; that of HTTP has its content type elsewhere."""
    headers = dict(found.headers)
    content_type = headers.pop("ce-datacontenttype", None) or headers.get("Content-Type")
    return _sdk_http(Found(headers, found.body, content_type))


def _sdk_rabbitmq(found: Found) -> Any:
    message = rabbitmq.RabbitMQMessage(found.headers, found.content_type, found.body)
    return rabbitmq.from_rabbitmq_event(message)


def _sdk_amqp(found: Found) -> Any:
    properties = {"content-type": found.content_type} if found.content_type else {}
    return amqp.from_amqp(amqp.AMQPMessage(properties, found.headers, found.body), JSONFormat())


SDK: Mapping[str, Callable[[Found], Any]] = {
    "kafka": _sdk_kafka,
    "rabbitmq": _sdk_rabbitmq,
    "amqp": _sdk_amqp,
    "nats": _sdk_nats,
    "mqtt": lambda found: _sdk_http(found, "" if found.content_type == STRUCTURED else "ce-"),
    "webhook": _sdk_http,
    "redis": _sdk_kafka,
}


def deliver(name: str, mode: str, events: Sequence[CloudEvent]) -> Sequence[Found]:
    """Publish events one after the other, and return what is on the broker."""
    with PLACES[name]() as (make, read), ExitStack() as made:
        backend = make(content_mode=mode)
        made.callback(backend.close)
        backend.open()
        for event in events:
            backend.send(make_message(event))
        found: Sequence[Found] = read()
        assert len(found) == len(events)
        return found


def event(**attributes: Any) -> CloudEvent:
    """An event of which only some attributes matter."""
    return CloudEvent(**{"event_type": "test.event", "source": "/wire", **attributes})


def attributes_of(event: CloudEvent) -> Mapping[str, str]:
    """The attributes, as the text that they are in binary mode."""
    members = event.to_dict()
    return {
        name: canonical(value)
        for name, value in members.items()
        if name not in ("data", "data_base64")
    }


@pytest.mark.parametrize("mode", ["structured", "binary"])
@pytest.mark.parametrize("name", PLACES)
def test_readers_find_what_was_published(name: str, mode: str) -> None:
    """What our readers make of a message of a real broker is the event that was published."""
    published = [*EVENTS.values(), event(data=b"x", extensions={"bytes": b"\xff"})]
    for found, sent in zip(deliver(name, mode, published), published, strict=True):
        read = READERS[name](found)
        assert attributes_of(read) == attributes_of(sent)
        assert (read.time, read.has_data) == (sent.time, sent.has_data)
        is_json = isinstance(sent.data, bytes) and sent.data_content_type == "application/json"
        expected = json.loads(sent.data) if is_json and mode == "binary" else sent.data
        assert read.data == expected


@pytest.mark.parametrize(
    "content_type",
    [STRUCTURED, "Application/CloudEvents+JSON; charset=utf-8", "application/cloudevents+avro"],
)
@pytest.mark.parametrize("name", PLACES)
def test_data_that_is_an_event_does_not_replace_the_event(name: str, content_type: str) -> None:
    """An event whose data is an event goes structured, and every reader finds the outer one."""
    data = INNER if "json" in content_type.lower() else b"\x00avro"
    outer = event(id="OUTER", data=data, data_content_type=content_type)
    (found,) = deliver(name, "binary", [outer])
    assert READERS[name](found) == outer
    read = SDK[name](found)
    assert read.get_id() == "OUTER"
    assert read.get_data() == data


@pytest.mark.parametrize("mode", ["structured", "binary"])
@pytest.mark.parametrize("name", PLACES)
def test_bytes_without_a_content_type_stay_without_one(name: str, mode: str) -> None:
    """No media type is made up for bytes that were received without one, on any wire."""
    received = CloudEvent.from_dict({**INNER, "data_base64": "AP8="})
    (found,) = deliver(name, mode, [received])
    read = READERS[name](found)
    assert (read.data, "datacontenttype" in read.to_dict()) == (b"\x00\xff", False)
    assert SDK[name](found).get_datacontenttype() in (None, "")


@pytest.mark.parametrize("mode", ["structured", "binary"])
@pytest.mark.parametrize("name", PLACES)
def test_long_extension_names_are_forwarded(name: str, mode: str) -> None:
    """An event that was received with a name over 20 characters goes on as it is."""
    received = CloudEvent.from_dict({**INNER, "knativekafkapartition": "0"})
    (found,) = deliver(name, mode, [received])
    assert READERS[name](found).extensions == {"knativekafkapartition": "0"}
    assert SDK[name](found).get_extension("knativekafkapartition") == "0"


def test_webhook_always_has_a_body_and_its_media_type() -> None:
    """The rules for webhooks permit no request without a payload, so such an event is structured.

    A reader could not tell an event without data from one with an empty text either.
    """
    empty = event(data_content_type="application/json")
    (found,) = deliver("webhook", "binary", [empty])
    assert found.headers["content-type"] == STRUCTURED
    assert READERS["webhook"](found) == empty
    assert SDK["webhook"](found).get_data() is None
