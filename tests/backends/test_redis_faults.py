"""The faults of a Redis server, on servers of our own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from django_broadcaster.backends import MessageBackend, RedisStreamBackend
from django_broadcaster.exceptions import Rejected
from django_broadcaster.testing import BackendFaultContract, Fault
from tests.support.redis_server import RedisServer, free_port, redis_server, tls_arguments
from tests.support.tcp_proxy import TcpProxy
from tests.support.tls_cases import CASES, host_of, tls_options


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that writes each command to disk before it answers."""
    durable = ("--appendonly", "yes", "--appendfsync", "always")
    with redis_server(tmp_path_factory.mktemp("redis"), *durable) as server:
        yield server


class TestFaults(BackendFaultContract):
    """One server, through a proxy."""

    backend = RedisStreamBackend
    excluded = {Fault.MISSING: "a stream is made by its first entry"}
    cases = {
        Fault.CREDENTIALS: ("no password", "wrong password", "unknown user"),
        Fault.TLS: CASES,
        Fault.FULL: ("at once", "during a batch"),
    }
    missing_for_one_error = Rejected
    timeout_options = {"socket_timeout": 0.5, "connect_timeout": 0.5}
    restarts = 2

    @pytest.fixture(autouse=True)
    def _server(self, running: RedisServer, tmp_path: Path, certificates: Path) -> Iterator[None]:
        self.server, self.folder, self.certificates = running, tmp_path, certificates
        running.command("FLUSHALL")
        with TcpProxy("127.0.0.1", running.port) as self.proxy:
            yield

    def make_backend(self, **options: Any) -> MessageBackend:
        server = {"host": "127.0.0.1", "port": self.proxy.port, "max_len": None}
        return RedisStreamBackend(**{**server, **options})

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        with self.server.client() as client:
            return [{"id": fields["event_id"]} for _, fields in client.xrange("events")]

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
    def size_limited(self, case: str) -> Iterator[int]:
        self.server.command("CONFIG", "SET", "proto-max-bulk-len", 2**20)
        yield 2**20
        self.server.command("CONFIG", "SET", "proto-max-bulk-len", 2**29)

    def missing_for_one(self, case: str) -> Mapping[str, Any]:
        self.server.command("SET", "no-stream", "x")
        return {"stream_name": "no-stream"}

    @contextmanager
    def credentials(self, case: str | None) -> Iterator[MessageBackend]:
        options = {
            None: {"password": "correct"},
            "no password": {},
            "wrong password": {"password": self.secret},
            "unknown user": {"username": "nobody", "password": self.secret},
        }[case]
        with redis_server(self.folder, "--requirepass", "correct") as server:
            yield self.new_backend(port=server.port, **options)

    @contextmanager
    def tls(self, case: str | None) -> Iterator[MessageBackend]:
        port, files = free_port(), self.certificates
        with redis_server(self.folder, "--tls-port", str(port), *tls_arguments(files)):
            options = {"host": host_of(case), "socket_timeout": 2.0, **tls_options(files, case)}
            yield self.new_backend(port=port, **options)

    @contextmanager
    def full(self, case: str) -> Iterator[MessageBackend]:
        used = self.server.command("INFO", "memory")["used_memory"]
        backend = self.new_backend()
        backend.open()
        limit = 1 if case == "at once" else used + 300_000
        self.server.command("CONFIG", "SET", "maxmemory", limit)
        yield backend
        self.server.command("CONFIG", "SET", "maxmemory", 0)
