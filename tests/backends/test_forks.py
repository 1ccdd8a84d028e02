"""A process that forks: a child leaves the connections of its parent alone, with every backend."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from socket import AF_INET, AF_INET6, socket
from stat import S_ISSOCK
from uuid import uuid4

import pytest
from django.conf import settings
from django.test import override_settings

from django_broadcaster import backends
from django_broadcaster.backends.connected import ConnectedBackend
from django_broadcaster.testing import make_message
from tests.support import (
    aws_server,
    celery_app,
    celery_queue,
    kafka_server,
    mosquitto_server,
    nats_server,
    rabbitmq_server,
    redis_server,
)
from tests.support.routing import OneDatabase
from tests.support.webhook_server import webhook_server

Server = Callable[[str, ExitStack, pytest.MonkeyPatch], dict[str, object]]


def _redis(name: str, ends: ExitStack, patch: pytest.MonkeyPatch) -> dict[str, object]:
    return {"url": redis_server.shared_url(), "stream_name": name}


def _rabbitmq(name: str, ends: ExitStack, patch: pytest.MonkeyPatch) -> dict[str, object]:
    url = rabbitmq_server.shared_url()
    ends.callback(rabbitmq_server.remove, url, name)
    return {"url": url, "exchange": name, "queue": name}


def _nats(name: str, ends: ExitStack, patch: pytest.MonkeyPatch) -> dict[str, object]:
    url = nats_server.shared_url()
    ends.callback(nats_server.delete_stream, url, name)
    return {"servers": url, "stream": name, "subject": name, "create_stream": True}


def _mqtt(name: str, ends: ExitStack, patch: pytest.MonkeyPatch) -> dict[str, object]:
    host, port = mosquitto_server.shared_address()
    return {"host": host, "port": port, "topic": name}


def _celery(broker: str, name: str, ends: ExitStack, patch: pytest.MonkeyPatch) -> None:
    ends.callback(celery_queue.remove, broker, name)
    patch.setattr(celery_app, "app", celery_app.make_app(broker, name))


def _celery_on_redis(name: str, ends: ExitStack, patch: pytest.MonkeyPatch) -> dict[str, object]:
    _celery(redis_server.shared_url(), name, ends, patch)
    return {"app": "tests.support.celery_app.app"}


def _celery_on_rabbitmq(name: str, ends: ExitStack, patch: pytest.MonkeyPatch) -> dict[str, object]:
    _celery(rabbitmq_server.shared_url(), name, ends, patch)
    return {"app": "tests.support.celery_app.app"}


def _kafka(name: str, ends: ExitStack, patch: pytest.MonkeyPatch) -> dict[str, object]:
    servers = kafka_server.shared_servers()
    return {"bootstrap_servers": servers, "topic": kafka_server.make_topic(servers)}


def _sqs(name: str, ends: ExitStack, patch: pytest.MonkeyPatch) -> dict[str, object]:
    url = aws_server.shared_url(name)
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    client = {"endpoint_url": url, "region_name": "eu-west-1", **keys}
    return {"queue_url": f"{url}/123456789012/{name}", "client": client}


def _webhook(name: str, ends: ExitStack, patch: pytest.MonkeyPatch) -> dict[str, object]:
    # A child can read a file, and not over its parent's connection to a server.
    router = OneDatabase("sqlite" if "sqlite" in settings.DATABASES else "default")
    ends.enter_context(override_settings(DATABASE_ROUTERS=[router]))
    return {"url": ends.enter_context(webhook_server()).url, "allow_private": True}


SERVERS: dict[str, tuple[str, Server]] = {
    "Celery on RabbitMQ": ("CeleryBackend", _celery_on_rabbitmq),
    "Celery on Redis": ("CeleryBackend", _celery_on_redis),
    "Kafka": ("KafkaBackend", _kafka),
    "MQTT": ("MQTTBackend", _mqtt),
    "NATS": ("NATSBackend", _nats),
    "RabbitMQ": ("RabbitMQBackend", _rabbitmq),
    "Redis": ("RedisStreamBackend", _redis),
    "SQS": ("SQSBackend", _sqs),
    "webhooks": ("WebhookBackend", _webhook),
}

NOT_COUNTED = {"KafkaBackend", "SQSBackend", "WebhookBackend"}
"""The first two clients do not show their sockets, which stay open in a child, and unused. Webhook
endpoints run in this process, so their ends of the connections are open here, too."""


def _connections() -> set[str]:
    """The TCP sockets that are open in this process."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if S_ISSOCK(each.stat().st_mode):
                with socket(fileno=os.dup(int(each.name))) as copy:
                    if copy.family in (AF_INET, AF_INET6):
                        found.add(str(each.readlink()))
    return found


@pytest.fixture(params=SERVERS)
def backend(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ConnectedBackend]:
    """A backend of each kind, for its real server."""
    class_name, server = SERVERS[request.param]
    with ExitStack() as ends:
        options = server(f"fork-{uuid4().hex}", ends, monkeypatch)
        made = getattr(backends, class_name)(alias="default", **options)
        ends.callback(made.close)
        yield made


@pytest.mark.django_db(databases="__all__")
def test_child_process_does_not_use_the_connection_of_its_parent(backend: ConnectedBackend) -> None:
    """Both sides deliver, the child over a connection of its own, and the parent's stays whole."""
    before = _connections()
    assert backend.send_batch([make_message(data=n) for n in range(20)]) == [None] * 20
    opened, connection = _connections() - before, backend._connection
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # servers of tests run in threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            status = _deliver_in_child(backend, opened)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert backend.send_batch([make_message(data=n) for n in range(20)]) == [None] * 20
    assert backend._connection is connection


def _deliver_in_child(backend: ConnectedBackend, opened: set[str]) -> int:
    """Return 0 if all is delivered and closed without a touch of what the parent has opened."""
    if type(backend).__name__ not in NOT_COUNTED and opened & _connections():
        return 2
    if backend._connection is not None:
        return 3
    if backend.send_batch([make_message(data=n) for n in range(20)]) != [None] * 20:
        return 4
    backend.close()
    gc.collect()
    return 0
