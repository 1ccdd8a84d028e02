"""RedisStreamConsumer on real servers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest

from django_broadcaster.backends import MessageBackend, RedisStreamBackend
from django_broadcaster.backends.bindings import REDIS, STRUCTURED_TYPE
from django_broadcaster.consumers import Consumer, RedisStreamConsumer
from django_broadcaster.testing import ConsumerContract, ProducedMessage
from tests.support.redis_server import RedisServer, redis_server
from tests.support.tcp_proxy import TcpProxy


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that writes each command to disk before it answers."""
    durable = ("--appendonly", "yes", "--appendfsync", "always")
    with redis_server(tmp_path_factory.mktemp("redis"), *durable) as server:
        yield server


@pytest.fixture
def server(running: RedisServer) -> RedisServer:
    """That server, emptied."""
    running.command("FLUSHALL")
    return running


def entry_of(message: ProducedMessage) -> dict[str, Any]:
    """Return the fields of a message, as a producer names them."""
    fields: dict[str, Any] = dict(message.headers)
    if message.content_type not in ("", STRUCTURED_TYPE):
        fields["content_type"] = message.content_type
    if message.body is not None:
        binary = "ce_specversion" in message.headers
        fields["data" if binary else "cloud_event"] = message.body
    return fields or {"empty": ""}


class TestContract(ConsumerContract):
    """One server, through a proxy."""

    binding = REDIS
    wrong_options = {
        "stream_name": [],
        "group": "",
        "start": "1-0",
        "body_field": "event_id",
        "claim_idle": 0,
        "host": "",
        "port": 0,
        "db": -1,
        "username": 5,
        "tls": "yes",
        "url": "http://localhost",
        "sentinels": "localhost",
        "cluster": 1,
        "startup_nodes": [("localhost", 1)],
        "connect_timeout": 0,
        "socket_timeout": 0,
    }
    secret_options = {"password": "hush-hush", "sentinel_password": "hush-hush"}

    @pytest.fixture(autouse=True)
    def _server(self, server: RedisServer) -> Iterator[None]:
        self.server = server
        with TcpProxy("127.0.0.1", server.port) as self.proxy:
            yield

    def make_consumer(self, **options: Any) -> Consumer:
        sentinels = {"sentinels": [("localhost", 1)], "sentinel_master": "main"}
        place = sentinels if "sentinel_password" in options else {"port": self.proxy.port}
        return RedisStreamConsumer(**{"group": "billing", **place, **options})

    def make_backend(self, **options: Any) -> MessageBackend:
        return RedisStreamBackend(port=self.server.port, max_len=None, **options)

    def produce(self, messages: Sequence[ProducedMessage]) -> None:
        with self.server.client() as client:
            pipeline = client.pipeline()
            for message in messages:
                pipeline.xadd("events", entry_of(message))
            pipeline.execute()

    def break_broker(self) -> AbstractContextManager[object]:
        return self.proxy.away()
