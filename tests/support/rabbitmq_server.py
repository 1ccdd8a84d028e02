"""RabbitMQ servers: the shared one, and a private one that a test may stop, fill up and cut off.

What is in a queue is read with pika, which shares no code with the client of the backend.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pika
import pytest

from tests.support.redis_server import free_port, missing
from tests.support.waiting import wait_until
from tools import services
from tools.handshakes import NoAnswer
from tools.rabbitmq_node import Node, is_installed
from tools.servers import SERVICES, probe

START_SECONDS = 60.0


@dataclass(frozen=True)
class Arrived:
    """A message as it was in the queue."""

    body: bytes
    properties: pika.BasicProperties
    exchange: str
    routing_key: str

    @property
    def headers(self) -> dict[str, Any]:
        """The application headers."""
        return self.properties.headers or {}


@cache
def shared_url() -> str:
    """The address of the RabbitMQ that all tests share: use names that nobody else does."""
    url = services.address("rabbitmq")
    if not url or not answers(url):
        missing(f"a RabbitMQ server, at {url or 'the address in BROADCASTER_RABBITMQ_URL'}")
    return url


def answers(url: str) -> bool:
    """Whether a server is at the address and lets us in."""
    try:
        probe(SERVICES["rabbitmq"], url)
    except NoAnswer:
        return False
    return True


@contextmanager
def channel(url: str) -> Iterator[Any]:
    """A channel of pika for the time of the block."""
    parts = urlsplit(url)
    parameters = pika.URLParameters(parts._replace(path="/%2F").geturl())
    with pika.BlockingConnection(parameters) as connection:
        yield connection.channel()


def take(url: str, queue: str) -> list[Arrived]:
    """Take all messages out of a queue, in order."""
    with channel(url) as reader:
        return list(_take(reader, queue))


def _take(reader: Any, queue: str) -> Iterator[Arrived]:
    while True:
        method, properties, body = reader.basic_get(queue, auto_ack=True)
        if method is None:
            return
        yield Arrived(body, properties, method.exchange, method.routing_key)


def depth(url: str, queue: str) -> int:
    """How many messages are in a queue."""
    with channel(url) as reader:
        return int(reader.queue_declare(queue, passive=True).method.message_count)


def remove(url: str, *names: str) -> None:
    """Delete queues and exchanges of these names, be they there or not."""
    with channel(url) as reader:
        for name in names:
            reader.queue_delete(name)
            reader.exchange_delete(name)


class RabbitMQServer:
    """A node of our own. Its data is in `folder`, and it keeps its ports when restarted."""

    def __init__(self, folder: Path, config: str = "", port: int | None = None) -> None:
        if not is_installed():
            missing("the program rabbitmq-server")
        self.node = Node(folder, port or free_port(), config)
        self.folder = folder

    @property
    def port(self) -> int:
        """Where it listens without TLS."""
        return self.node.port

    @property
    def url(self) -> str:
        """The server's address."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "output").open("ab") as output:
            self.node.start(output)
        wait_until(self._is_up, START_SECONDS, "the RabbitMQ server is up")

    def kill(self) -> None:
        """SIGKILL it, as a power cut would, and wait for its end."""
        self.node.kill()

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Let it hang (SIGSTOP): the system accepts connections for it, nothing is answered."""
        server = self.node.server
        assert server is not None
        server.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            server.send_signal(signal.SIGCONT)

    @contextmanager
    def alarmed(self) -> Iterator[None]:
        """Let it be short of memory: it blocks whoever publishes."""
        self.node.control("set_vm_memory_high_watermark", "absolute", "1")
        try:
            yield
        finally:
            self.node.control("set_vm_memory_high_watermark", "0.4")

    def _is_up(self) -> bool:
        server = self.node.server
        assert server is not None
        if server.poll() is not None:
            pytest.fail(f"rabbitmq-server has ended: {(self.folder / 'output').read_text()}")
        return answers(self.url)


@contextmanager
def full_queue(server: RabbitMQServer, queue: str) -> Iterator[None]:
    """Let a queue refuse what comes after three messages, for the time of the block."""
    policy = '{"max-length": 3, "overflow": "reject-publish"}'
    server.node.control("set_policy", "full", f"^{queue}$", policy)
    yield
    server.node.control("clear_policy", "full")


def tls_config(certificates: Path, port: int) -> str:
    """The lines of a node's configuration for a port where it speaks TLS, too."""
    return f"""
listeners.ssl.local = 127.0.0.1:{port}
ssl_options.cacertfile = {certificates}/ca.pem
ssl_options.certfile = {certificates}/server.pem
ssl_options.keyfile = {certificates}/server.key
"""


@contextmanager
def rabbitmq_server(folder: Path, config: str = "") -> Iterator[RabbitMQServer]:
    """A running server for the time of the block."""
    server = RabbitMQServer(folder, config)
    try:
        server.start()
        yield server
    finally:
        server.node.close()
