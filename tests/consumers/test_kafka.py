"""KafkaConsumer on Apache Kafka: the contract, the partitions of a group, and what is received.

Messages are produced by Kafka's own client, and by the official SDK of CloudEvents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest

from django_broadcaster.backends import KafkaBackend, MessageBackend
from django_broadcaster.backends.bindings import KAFKA
from django_broadcaster.consumers import Consumer, KafkaConsumer
from django_broadcaster.testing import ConsumerContract, ProducedMessage
from tests.support.kafka_server import (
    KafkaServer,
    make_topic,
    produce,
    proxied_kafka,
)
from tests.support.tcp_proxy import TcpProxy

WAIT = 30.0  # seconds, at the most

MakeConsumer = Callable[..., KafkaConsumer]


@pytest.fixture(scope="module")
def proxied(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[KafkaServer, TcpProxy]]:
    """A broker, and the proxy that its clients come through."""
    with proxied_kafka(tmp_path_factory.mktemp("kafka")) as pair:
        yield pair


class TestContract(ConsumerContract):
    """A topic of one partition for each test, through a proxy."""

    binding = KAFKA
    wrong_options = {
        "topics": "a b",
        "group": "",
        "group_instance_id": "",
        "start": "earliest",
        "session_timeout": 0,
        "timeout": 0,
        "bootstrap_servers": [],
        "username": 5,
        "tls": "yes",
        "config": {"auto.offset.reset": "error"},
    }
    secret_options = {"password": "hush-hush"}

    @pytest.fixture(autouse=True)
    def _server(self, proxied: tuple[KafkaServer, TcpProxy]) -> None:
        self.server, self.proxy = proxied
        self.servers = f"127.0.0.1:{self.proxy.port}"
        self.topic = make_topic(self.server.servers)

    def make_consumer(self, **options: Any) -> Consumer:
        where = {"bootstrap_servers": self.servers, "topics": self.topic, "group": self.topic}
        return KafkaConsumer(**{**where, "session_timeout": 2, "timeout": 3, **options})

    def make_backend(self, **options: Any) -> MessageBackend:
        return KafkaBackend(bootstrap_servers=self.server.servers, topic=self.topic, **options)

    def produce(self, messages: Sequence[ProducedMessage]) -> None:
        records = []
        for message in messages:
            headers = {name: text.encode() for name, text in message.headers.items()}
            if message.content_type:
                headers["content-type"] = message.content_type.encode()
            records.append((message.key.encode(), message.body, headers))
        produce(self.server.servers, self.topic, records)

    def break_broker(self) -> AbstractContextManager[object]:
        return self.proxy.away()
