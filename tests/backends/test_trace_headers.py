"""An event's trace on the wire of each backend, read back from real servers by other clients."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
import redis

from django_broadcaster.backends import (
    CeleryBackend,
    KafkaBackend,
    MessageBackend,
    MQTTBackend,
    NATSBackend,
    RabbitMQBackend,
    RedisStreamBackend,
    WebhookBackend,
)
from django_broadcaster.backends.bindings import AWS, HTTP, KAFKA
from django_broadcaster.testing import make_message
from tests.support import (
    celery_app,
    celery_queue,
    kafka_server,
    mosquitto_server,
    nats_server,
    rabbitmq_server,
    redis_server,
)
from tests.support.waiting import wait_until
from tests.support.webhook_server import webhook_server

TRACE = {
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "shop=t61rcWkgMzE,other=1",
}
MODES = ("structured", "binary")


# The webhook backend asks the database which endpoints are in trouble.
pytestmark = pytest.mark.usefixtures("committing")


@dataclass
class Seen:
    """What arrived: the protocol's own headers, and the event's extensions by their names."""

    headers: Mapping[str, str]
    event: Mapping[str, str]


def send(backend: MessageBackend, extensions: Mapping[str, Any]) -> None:
    """Publish one event."""
    backend.open()
    try:
        backend.send(make_message(data={"order": 1}, extensions=extensions))
    finally:
        backend.close()


def seen(headers: Mapping[str, str], mode: str, body: bytes | str | None, prefix: str) -> Seen:
    """Sort out what arrived."""
    if mode == "structured":
        members = json.loads(body or "{}")
    else:
        members = {name.removeprefix(prefix): headers[name] for name in headers if prefix in name}
    return Seen(headers, {name: members[name] for name in TRACE if name in members})


def over_redis(mode: str, extensions: Mapping[str, Any]) -> Seen:
    """One event in a stream; it has fields, and nobody looks for headers there."""
    name, url = f"tests:trace:{uuid4()}", redis_server.shared_url()
    backend = RedisStreamBackend(alias="a", url=url, stream_name=name, content_mode=mode)
    send(backend, extensions)
    with redis.Redis.from_url(url, decode_responses=True) as client:
        ((_, fields),) = client.xrange(name)
        client.delete(name)
    return seen(fields, mode, fields.get("cloud_event"), "ce_")


def over_kafka(mode: str, extensions: Mapping[str, Any]) -> Seen:
    """One record of a topic."""
    servers = kafka_server.shared_servers()
    topic = kafka_server.make_topic(servers)
    send(
        KafkaBackend(alias="a", bootstrap_servers=servers, topic=topic, content_mode=mode),
        extensions,
    )
    (record,) = kafka_server.records(servers, topic)
    headers = {name: text.decode() for name, text in kafka_server.headers_of(record).items()}
    return seen(headers, mode, record.value(), "ce_")


def over_rabbitmq(mode: str, extensions: Mapping[str, Any]) -> Seen:
    """One message of a queue."""
    name, url = f"test-{uuid4().hex}", rabbitmq_server.shared_url()
    try:
        send(
            RabbitMQBackend(alias="a", url=url, exchange=name, queue=name, content_mode=mode),
            extensions,
        )
        (arrived,) = rabbitmq_server.take(url, name)
    finally:
        rabbitmq_server.remove(url, name)
    return seen(arrived.headers, mode, arrived.body, "ce-")


def over_nats(mode: str, extensions: Mapping[str, Any]) -> Seen:
    """One message of a stream."""
    name, url = f"test-{uuid4()}", nats_server.shared_url()
    nats_server.add_stream(url, name, f"{name}.>")
    try:
        send(
            NATSBackend(
                alias="a", servers=url, stream=name, subject=f"{name}.a", content_mode=mode
            ),
            extensions,
        )
        (stored,) = nats_server.stored(url, name)
    finally:
        nats_server.delete_stream(url, name)
    return seen(stored.headers, mode, stored.data, "ce-")


def over_mqtt(mode: str, extensions: Mapping[str, Any]) -> Seen:
    """One message of a topic; extensions and headers have the same names."""
    topic, address = f"test/{uuid4().hex}", mosquitto_server.shared_address()
    host, port = address
    with mosquitto_server.subscriber(address, topic) as reader:
        send(
            MQTTBackend(alias="a", host=host, port=port, topic=f"{topic}/a", content_mode=mode),
            extensions,
        )
        wait_until(lambda: bool(reader.read()), 10, "the message to arrive")
        (arrived,) = reader.read()
    return seen(arrived.headers, mode, arrived.payload, "")


def over_http(mode: str, extensions: Mapping[str, Any]) -> Seen:
    """One request."""
    with webhook_server() as server:
        send(
            WebhookBackend(alias="a", url=server.url, allow_private=True, content_mode=mode),
            extensions,
        )
        (request,) = server.requests
    return seen(request.headers, mode, request.body, "ce-")


Carry = Callable[[str, Mapping[str, Any]], Seen]
PROTOCOLS: Mapping[str, Carry] = {
    "http": over_http,
    "kafka": over_kafka,
    "mqtt": over_mqtt,
    "nats": over_nats,
    "rabbitmq": over_rabbitmq,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_trace_is_an_extension_and_the_headers_of_w3c(protocol: str, mode: str) -> None:
    """Who reads CloudEvents finds the trace, and so does who only knows W3C Trace Context."""
    found = PROTOCOLS[protocol](mode, TRACE)
    assert found.event == TRACE
    assert {name: found.headers[name] for name in TRACE} == TRACE


@pytest.mark.parametrize("mode", MODES)
def test_redis_has_the_extensions(mode: str) -> None:
    """In a stream the trace is with the other extensions, and nowhere else."""
    found = over_redis(mode, TRACE)
    assert found.event == TRACE
    assert not TRACE.keys() & found.headers.keys()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_event_without_a_trace_has_no_such_headers(protocol: str) -> None:
    """A `tracestate` alone belongs to no trace: it stays the extension that it is."""
    found = PROTOCOLS[protocol]("structured", {"tracestate": "a=1"})
    assert not TRACE.keys() & found.headers.keys()
    assert found.event == {"tracestate": "a=1"}


@pytest.mark.parametrize("servers", [redis_server, rabbitmq_server])
def test_a_celery_task_has_the_headers(servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is instrumented goes on with the trace: its task's request has it."""
    url, queue = servers.shared_url(), f"celery-{uuid4().hex}"
    monkeypatch.setattr(celery_app, "app", celery_app.make_app(url, queue))
    try:
        send(CeleryBackend(alias="a", app="tests.support.celery_app.app"), TRACE)
        (call,) = celery_queue.take(url, queue)
    finally:
        celery_queue.remove(url, queue)
    assert {name: call.headers[name] for name in TRACE} == TRACE


def test_what_is_no_text_can_break_no_header() -> None:
    """An extension may be any value, and a header of HTTP is one line of ASCII."""
    strange = make_message(extensions={"traceparent": 7, "tracestate": "ä=\U0001f600"})
    assert HTTP.trace_headers(strange) == {
        "traceparent": "7",
        "tracestate": "%C3%A4=%F0%9F%98%80",
    }
    assert KAFKA.trace_headers(strange)["tracestate"] == "ä=\U0001f600"
    assert AWS.trace_headers(strange) == {}
