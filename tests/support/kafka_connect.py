"""Kafka Connect with Debezium's PostgreSQL connector, and a PostgreSQL whose WAL it can read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen
from uuid import uuid4

import pytest

from tests.support.own_servers import OwnDatabase, own_instance, running, service_like
from tests.support.redis_server import free_port, missing
from tests.support.waiting import wait_until
from tools.kafka_connect import Worker
from tools.kafka_node import QUICK, is_installed

START_SECONDS = 180.0
REST_SECONDS = 30.0


class ConnectServer:
    """A worker of our own, which finds its connectors and their positions again after a restart.

    `config` has more lines of its properties, and `options` are those of Java; see `Worker`.
    """

    def __init__(
        self, folder: Path, brokers: str, config: str = "", options: Sequence[str] = QUICK
    ) -> None:
        if not is_installed():
            missing("Java and Maven, for Kafka Connect")
        self._log = folder / "connect.log"
        place = (folder, free_port(), brokers, f"connect-{uuid4()}")
        self._worker = Worker(*place, config=config, options=options)

    @property
    def url(self) -> str:
        """The address of its REST interface."""
        return self._worker.url

    @property
    def pid(self) -> int:
        """The id of its process, while it runs."""
        assert self._worker.process is not None
        return self._worker.process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self._log.open("ab") as log:
            self._worker.start(log)
        try:
            wait_until(self._answers, START_SECONDS, "Kafka Connect answers")
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL it, and wait for its end."""
        self._worker.kill()

    def call(self, method: str, path: str) -> Any:
        """Call its REST interface; return the JSON of the answer, None without any."""
        request = Request(f"{self.url}{path}", method=method)  # noqa: S310  # http alone
        with urlopen(request, timeout=REST_SECONDS) as answer:  # noqa: S310
            body = answer.read()
        return json.loads(body) if body else None

    def is_running(self, connector: str) -> bool:
        """Whether the task of a connector runs; fails the test if it has failed."""
        try:
            tasks = self.call("GET", f"/connectors/{connector}/status")["tasks"]
        except HTTPError:  # not known yet
            return False
        for task in tasks:
            if task["state"] == "FAILED":
                pytest.fail(f"Debezium failed: {task['trace'][:2000]}")
        return [task["state"] for task in tasks] == ["RUNNING"]

    def has_stopped(self, connector: str) -> bool:
        """Whether a connector has no task."""
        try:
            return self.call("GET", f"/connectors/{connector}/status")["tasks"] == []
        except HTTPError:  # while workers rebalance
            return False

    def put(self, path: str) -> None:
        """Request a change without content; wait while workers rebalance (409)."""

        def is_accepted() -> bool:
            try:
                self.call("PUT", path)
            except HTTPError as error:
                if error.code != HTTPStatus.CONFLICT:
                    raise
                return False
            return True

        wait_until(is_accepted, REST_SECONDS, f"Kafka Connect accepts PUT {path}")

    def wait_until_running(self, connector: str) -> None:
        """Wait until a connector runs."""
        wait_until(lambda: self.is_running(connector), START_SECONDS, f"{connector} runs")

    def _answers(self) -> bool:
        process = self._worker.process
        if process is None or process.poll() is not None:
            pytest.fail(f"Kafka Connect has ended: {self._log.read_text()[-2000:]}")
        try:
            self.call("GET", "/connectors")
        except (URLError, OSError):
            return False
        return True


@contextmanager
def kafka_connect(
    folder: Path, brokers: str, config: str = "", options: Sequence[str] = QUICK
) -> Iterator[ConnectServer]:
    """A running worker for the time of the block."""
    server = ConnectServer(folder, brokers, config, options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def logical_postgres() -> Iterator[OwnDatabase]:
    """A PostgreSQL server with `wal_level` logical, with the outbox's tables in the alias `own`."""
    words = "-c wal_level=logical -c max_connections=50"
    with own_instance(service_like("postgres", serve=words)) as instance, running(instance) as own:
        yield own


def records_in_wal(server: OwnDatabase, slot: str) -> list[dict[str, Any]]:
    """Return the events that a slot has not passed on yet, as the connector will read them."""
    rows = server.execute(
        "SELECT data FROM pg_logical_slot_peek_binary_changes("  # noqa: S608
        f"'{slot}', NULL, NULL, 'proto_version', '1', 'publication_names', '{slot}', "
        "'messages', 'true')"
    )
    return [json.loads(content) for (data,) in rows if (content := _content(bytes(data), slot))]


def _content(change: bytes, prefix: str) -> bytes:
    """Return the content of a logical message with a prefix; nothing for other changes.

    https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html (Message)
    """
    head, _, rest = change[10:].partition(b"\0")
    return rest[4:] if change[:1] == b"M" and head == prefix.encode() else b""
