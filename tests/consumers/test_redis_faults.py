"""The faults of a Redis server, as its consumer meets them, on servers of our own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from django_broadcaster.consumers import Consumer, RedisStreamConsumer
from django_broadcaster.events import CloudEvent
from django_broadcaster.testing import ConsumerFault, ConsumerFaultContract
from tests.support.redis_server import RedisServer, free_port, redis_server, tls_arguments
from tests.support.tcp_proxy import TcpProxy
from tests.support.tls_cases import CASES, host_of, tls_options


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that writes each command to disk before it answers."""
    durable = ("--appendonly", "yes", "--appendfsync", "always")
    with redis_server(tmp_path_factory.mktemp("redis"), *durable) as server:
        yield server


class TestFaults(ConsumerFaultContract):
    """One server, through a proxy."""

    cases = {
        ConsumerFault.CREDENTIALS: ("no password", "wrong password", "unknown user"),
        ConsumerFault.TLS: CASES,
        ConsumerFault.MISSING: ("not a stream",),
    }
    missing = "'events'"
    timeout_options = {"socket_timeout": 0.5, "connect_timeout": 0.5}

    @pytest.fixture(autouse=True)
    def _server(self, running: RedisServer, tmp_path: Path, certificates: Path) -> Iterator[None]:
        self.server, self.folder, self.certificates = running, tmp_path, certificates
        running.command("FLUSHALL")
        with TcpProxy("127.0.0.1", running.port) as self.proxy:
            yield

    def make_consumer(self, **options: Any) -> Consumer:
        server = {"host": "127.0.0.1", "port": self.proxy.port, "group": "billing"}
        return RedisStreamConsumer(**{**server, **options})

    def produce(self, events: Sequence[CloudEvent]) -> None:
        with self.server.client() as client:
            pipeline = client.pipeline()
            for event in events:
                pipeline.xadd("events", {"data": event.to_json()})
            pipeline.execute()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self.server.kill()
        yield
        self.server.start()

    def connection_cut(self, direction: str, after: int) -> AbstractContextManager[object]:
        return self.proxy.cut(direction, after)

    def frozen(self) -> AbstractContextManager[object]:
        return self.server.frozen()

    @contextmanager
    def source_missing(self, case: str) -> Iterator[Consumer]:
        self.server.command("SET", "events", "x")
        yield self.new_consumer()
        self.server.command("DEL", "events")

    @contextmanager
    def credentials(self, case: str | None) -> Iterator[Consumer]:
        options = {
            None: {"password": "correct"},
            "no password": {},
            "wrong password": {"password": self.secret},
            "unknown user": {"username": "nobody", "password": self.secret},
        }[case]
        with redis_server(self.folder, "--requirepass", "correct") as server:
            yield self.new_consumer(port=server.port, **options)

    @contextmanager
    def tls(self, case: str | None) -> Iterator[Consumer]:
        port, files = free_port(), self.certificates
        with redis_server(self.folder, "--tls-port", str(port), *tls_arguments(files)):
            options = {"host": host_of(case), "socket_timeout": 2.0, **tls_options(files, case)}
            yield self.new_consumer(port=port, **options)
