"""Clients that OpenTelemetry instruments: an event arrives with the trace of its creation alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
from opentelemetry.sdk.trace import TracerProvider

from django_broadcaster.backends import (
    CeleryBackend,
    KafkaBackend,
    Message,
    SQSBackend,
    WebhookBackend,
)
from django_broadcaster.testing import make_message
from tests.support import celery_app
from tests.support.aws_server import aws_server
from tests.support.kafka_server import make_topic, records, shared_servers
from tests.support.redis_server import shared_url
from tests.support.webhook_server import webhook_server

from .test_aws import client_options

pytestmark = pytest.mark.django_db

INSTRUMENTORS = {
    "aiohttp": ("aiohttp_client", "AioHttpClientInstrumentor"),
    "botocore": ("botocore", "BotocoreInstrumentor"),
    "celery": ("celery", "CeleryInstrumentor"),
    "confluent_kafka": ("confluent_kafka", "ConfluentKafkaInstrumentor"),
}


@contextmanager
def instrumented(client: str) -> Iterator[Any]:
    """Instrument a client, and have a span as the current one."""
    module, name = INSTRUMENTORS[client]
    found = pytest.importorskip(f"opentelemetry.instrumentation.{module}")
    provider = TracerProvider()
    instrumentor = getattr(found, name)()
    instrumentor.instrument(tracer_provider=provider)
    try:
        with provider.get_tracer("tests").start_as_current_span("send"):
            yield
    finally:
        instrumentor.uninstrument()


def traced() -> list[Message]:
    """Messages that were created in different traces."""
    parents = [f"00-{n:032x}-{n:016x}-01" for n in (1, 2, 3)]
    return [make_message(extensions={"traceparent": parent}) for parent in parents]


def traces(messages: Sequence[Message]) -> list[str]:
    """The traces of messages."""
    return [str(message.extensions["traceparent"]) for message in messages]


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_webhook(mode: str) -> None:
    """An endpoint gets one `traceparent`, the event's, over a kept connection too."""
    with instrumented("aiohttp"), webhook_server() as server:
        backend = WebhookBackend(
            alias="default", url=server.url, content_mode=mode, allow_private=True, max_in_flight=1
        )
        messages = traced()
        for message in messages:
            assert backend.send_batch([message]) == [None]
        backend.close()
    assert [each.headers["traceparent"] for each in server.requests] == traces(messages)


def test_kafka() -> None:
    """A record has one header `traceparent`, the event's."""
    servers = shared_servers()
    with instrumented("confluent_kafka"):
        topic = make_topic(servers)
        backend = KafkaBackend(alias="default", bootstrap_servers=servers, topic=topic)
        messages = traced()
        assert backend.send_batch(messages) == [None] * 3
        backend.close()
        found = [
            [value.decode() for name, value in record.headers() or [] if name == "traceparent"]
            for record in records(servers, topic)
        ]
    assert found == [[trace] for trace in traces(messages)]


def test_celery(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task's message has the event's trace among its headers, whoever listens to the signals."""
    queue = f"tests-{uuid4()}"
    with instrumented("celery"), redis.Redis.from_url(shared_url()) as client:
        monkeypatch.setattr(celery_app, "app", celery_app.make_app(shared_url(), queue))
        backend = CeleryBackend(alias="default", app="tests.support.celery_app.app")
        messages = traced()
        assert backend.send_batch(messages) == [None] * 3
        backend.close()
        found = [json.loads(each)["headers"] for each in reversed(client.lrange(queue, 0, -1))]
        client.delete(queue)
    assert [each["traceparent"] for each in found] == traces(messages)


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_sqs(tmp_path: Path, mode: str) -> None:
    """A message has the attributes that it has without the instrumentation, and no others."""
    arrived: list[list[list[str]]] = []
    with aws_server(tmp_path) as server:
        for around in (nullcontext(), instrumented("botocore")):
            queue = server.make_queue(f"q{uuid4().hex}")
            options = {"queue_url": queue, "client": client_options(server.url)}
            backend = SQSBackend(alias="default", content_mode=mode, **options)
            with around:
                assert backend.send_batch([make_message()]) == [None]
            backend.close()
            arrived.append([sorted(each.attributes) for each in server.take(queue)])
    assert arrived[0] == arrived[1]
