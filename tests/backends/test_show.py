"""What a backend shows of a message is what it sends, and holds no secret."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import pytest
import redis

from django_broadcaster.backends.handler import backends
from django_broadcaster.events import CloudEvent
from django_broadcaster.testing import make_message
from tests.support.redis_server import shared_url

from .test_options import backend_classes

MODULE = "django_broadcaster.backends."
SHOWN: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "CeleryBackend": ({"app": "tests.support.celery_app.app"}, {"task": "order.placed"}),
    "ConsoleBackend": ({}, {}),
    "DebeziumBackend": (
        {"topic": "shop.{type}"},
        {"topic": "shop.order.placed", "key": "k1"},
    ),
    "DummyBackend": ({}, {}),
    "KafkaBackend": (
        {"bootstrap_servers": "k:9092", "topic": "shop.{type}"},
        {"topic": "shop.order.placed", "key": "k1"},
    ),
    "LocMemBackend": ({}, {}),
    "LocalBackend": ({}, {"handlers": "(none)"}),
    "MQTTBackend": ({"password": "hush", "username": "me"}, {"retain": False}),
    "NATSBackend": ({"stream": "SHOP", "subject": "shop.{type}"}, {"subject": "shop.order.placed"}),
    "RabbitMQBackend": ({"password": "hush", "exchange": "shop"}, {"exchange": "shop"}),
    "RedisStreamBackend": ({"password": "hush", "stream_name": "shop"}, {"stream": "shop"}),
    "SNSBackend": (
        {"topic_arn": "arn:aws:sns:eu-west-1:1:shop.fifo"},
        {"topic_arn": "arn:aws:sns:eu-west-1:1:shop.fifo", "MessageGroupId": "k1"},
    ),
    "SQSBackend": (
        {"queue_url": "https://sqs.eu-west-1.amazonaws.com/1/shop.fifo"},
        {"MessageGroupId": "k1"},
    ),
    "TasksBackend": ({}, {"handlers": "(none)"}),
    "WebhookBackend": (
        {
            "url": "https://hooks.example/hush",
            "headers": {"Authorization": "hush"},
            "secrets": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        },
        {"endpoint": "https://hooks.example (endpoint 128de634)"},
    ),
}
"""By backend: options, and a part of the destination that it shows."""


@pytest.mark.parametrize("name", [each.__name__ for each in backend_classes()])
def test_a_message_is_shown_without_a_connection(
    name: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The destination, and a body with the event; no server is asked, and no secret is in it."""
    options, destination = SHOWN[name]
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": MODULE + name, "OPTIONS": options}}

    def refuse(*_: object) -> NoReturn:
        pytest.fail("it opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    event = CloudEvent(event_type="order.placed", source="/shop", data={"order": 7})
    shown = backends.create("default").show(make_message(event, partition_key="k1"))
    assert {name: shown.destination[name] for name in destination} == destination
    assert shown.body is not None
    assert b'"order"' in shown.body
    everything = f"{shown.destination} {shown.headers} {shown.body!r}"
    assert "hush" not in everything
    assert "MfKQ9r8" not in everything


@pytest.fixture
def stream() -> Iterator[str]:
    """A stream of the shared Redis."""
    name = "tests:show"
    yield name
    with redis.Redis.from_url(shared_url()) as client:
        client.delete(name)


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_redis_is_sent_what_is_shown(mode: str, settings: Any, stream: str) -> None:
    """The fields of the entry that the server has are those that were shown."""
    options = {"url": shared_url(), "stream_name": stream, "content_mode": mode}
    where = MODULE + "RedisStreamBackend"
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": where, "OPTIONS": options}}
    message = make_message(event_type="order.placed", source="/shop", data={"order": "ä"})
    backend = backends.create("default")
    shown = backend.show(message)
    backend.open()
    try:
        backend.send(message)
    finally:
        backend.close()
    with redis.Redis.from_url(shared_url()) as client:
        (entry,) = client.xrange(stream)
    body = "cloud_event" if mode == "structured" else "data"
    expected = {name.encode(): value.encode() for name, value in shown.headers.items()}
    assert entry[1] == {**expected, body.encode(): shown.body}
