"""What goes wrong with RabbitMQ while messages are received, on a node of our own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pika
import pytest

from django_broadcaster.consumers import Consumer, RabbitMQConsumer
from django_broadcaster.events import CloudEvent
from django_broadcaster.testing import ConsumerFault, ConsumerFaultContract
from tests.support.rabbitmq_server import (
    RabbitMQServer,
    channel,
    rabbitmq_server,
    remove,
    tls_config,
)
from tests.support.redis_server import free_port
from tests.support.tcp_proxy import TcpProxy
from tests.support.tls_cases import CASES, host_of, tls_options

pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module")
def tls_port() -> int:
    """The port where the node speaks TLS, and wants a client's certificate."""
    return free_port()


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, certificates: Path, tls_port: int
) -> Iterator[RabbitMQServer]:
    """The node that all of these tests share, one after the other: it takes seconds to start."""
    config = f"""
{tls_config(certificates, tls_port)}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
"""
    with rabbitmq_server(tmp_path_factory.mktemp("rabbitmq"), config) as running:
        yield running


class QueueFaults(ConsumerFaultContract):
    """Through a proxy, with a queue for each test."""

    cases = {
        ConsumerFault.MISSING: ("queue", "exchange"),
        ConsumerFault.CREDENTIALS: ("wrong password", "unknown user", "no such virtual host"),
        ConsumerFault.TLS: CASES,
    }
    timeout_options = {"timeout": 2.0, "connect_timeout": 2.0, "heartbeat": 2}
    missing = "-2"

    queue_type: str

    @pytest.fixture(autouse=True)
    def _server(self, server: RabbitMQServer, tls_port: int, certificates: Path) -> Iterator[None]:
        self.server, self.tls_port, self.certificates = server, tls_port, certificates
        self.name = f"test-{uuid4().hex}"
        self.declare(self.name)
        with TcpProxy("127.0.0.1", server.port) as self.proxy:
            yield
        remove(server.url, self.name, f"{self.name}-2")

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The arguments of the queue."""
        return {"x-queue-type": self.queue_type, "x-single-active-consumer": True}

    def declare(self, queue: str) -> None:
        """Make a queue."""
        with channel(self.server.url) as setup:
            setup.queue_declare(queue, durable=True, arguments=self.arguments)

    def make_consumer(self, **options: Any) -> Consumer:
        url = f"amqp://127.0.0.1:{self.proxy.port}"
        defaults = {"url": url, "queue": self.name, "queue_arguments": self.arguments}
        return RabbitMQConsumer(**{**defaults, "timeout": 5.0, **options})

    def produce(self, events: Sequence[CloudEvent]) -> None:
        properties = pika.BasicProperties(
            content_type="application/cloudevents+json", delivery_mode=2
        )
        with channel(self.server.url) as producer:
            producer.confirm_delivery()
            for event in events:
                producer.basic_publish("", self.name, event.to_json(), properties)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self.server.kill()
        yield
        self.server.start()

    def connection_cut(self, direction: str, after: int) -> AbstractContextManager[object]:
        return self.proxy.cut(direction, after)

    def frozen(self) -> AbstractContextManager[object]:
        return self.server.hanging()

    @contextmanager
    def source_missing(self, case: str) -> Iterator[Consumer]:
        other = f"{self.name}-2"
        options = {"exchange": other} if case == "exchange" else {"queue": other, "declare": False}
        yield self.new_consumer(**options)
        self.declare(other)
        with channel(self.server.url) as setup:
            setup.exchange_declare(other, "topic", durable=True)

    @contextmanager
    def credentials(self, case: str | None) -> Iterator[Consumer]:
        login, place = {
            None: ("guest:guest", ""),
            "wrong password": (f"guest:{self.secret}", ""),
            "unknown user": (f"nobody:{self.secret}", ""),
            "no such virtual host": ("guest:guest", "/none"),
        }[case]
        yield self.new_consumer(url=f"amqp://{login}@127.0.0.1:{self.server.port}{place}")

    @contextmanager
    def tls(self, case: str | None) -> Iterator[Consumer]:
        scheme = "amqp" if case == "no TLS" else "amqps"
        yield self.new_consumer(
            url=f"{scheme}://{host_of(case)}:{self.tls_port}",
            **tls_options(self.certificates, case),
            **(self.timeout_options if case else {}),
        )


class TestClassicQueueFaults(QueueFaults):
    """A classic queue with a single active consumer."""

    queue_type = "classic"


class TestQuorumQueueFaults(QueueFaults):
    """A quorum queue with a single active consumer."""

    excluded = {
        ConsumerFault.RESTART: "a single node of RabbitMQ 3.10 does not restore a quorum queue"
    }
    queue_type = "quorum"
