"""The faults of Kafka, as its consumer meets them, on a broker of our own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from django_broadcaster.consumers import Consumer, KafkaConsumer
from django_broadcaster.events import CloudEvent
from django_broadcaster.testing import ConsumerFault, ConsumerFaultContract
from tests.support.kafka_server import (
    SASL,
    KafkaServer,
    add_user,
    forbid,
    make_topic,
    produce,
    proxied_kafka,
    tls_config,
)
from tests.support.tcp_proxy import TcpProxy
from tests.support.tls_cases import CASES, host_of, tls_options

PASSWORD = "s3cret"


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, certificates: Path
) -> Iterator[tuple[KafkaServer, TcpProxy]]:
    """A broker behind a proxy; its other ports are for users who log in, and for TLS."""
    folder = tmp_path_factory.mktemp("kafka")
    config = SASL + tls_config(folder, certificates)
    with proxied_kafka(folder, config, ["SASL_PLAINTEXT", "SSL"]) as pair:
        yield pair


class TestFaults(ConsumerFaultContract):
    """A topic of three partitions for each test, through a proxy."""

    cases = {
        ConsumerFault.MISSING: ("unknown topic", "topic not permitted"),
        ConsumerFault.CREDENTIALS: ("wrong password", "unknown user", "no login"),
        ConsumerFault.TLS: CASES,
    }
    # A receiver that is not called any more loses its partitions after three seconds.
    timeout_options = {
        "timeout": 1.0,
        "session_timeout": 1.0,
        "config": {"max.poll.interval.ms": 3000},
    }

    @pytest.fixture(autouse=True)
    def _server(self, running: tuple[KafkaServer, TcpProxy], certificates: Path) -> None:
        self.server, self.proxy = running
        self.certificates = certificates
        self.servers = f"127.0.0.1:{self.proxy.port}"
        self.topic = self.missing = make_topic(self.server.servers, 3)  # type: ignore[misc]

    def make_consumer(self, **options: Any) -> Consumer:
        where = {"bootstrap_servers": self.servers, "topics": self.topic, "group": self.topic}
        return KafkaConsumer(**{**where, "timeout": 3.0, "session_timeout": 2.0, **options})

    def produce(self, events: Sequence[CloudEvent]) -> None:
        headers = {"content-type": b"application/cloudevents+json"}
        records = [(each.partition_key.encode(), each.to_json(), headers) for each in events]
        produce(self.server.servers, self.topic, records)

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
        if case == "unknown topic":
            self.topic = f"later-{uuid4()}"
            self.missing = f"--create --topic {self.topic}"  # type: ignore[misc]
            yield self.new_consumer()
            make_topic(self.server.servers, name=self.topic)
        else:
            with forbid(self.server, "app", self.topic):
                yield self.new_consumer(**self._login())

    def _login(self, password: str = PASSWORD) -> dict[str, Any]:
        add_user(self.server, "app", PASSWORD)
        return {
            "bootstrap_servers": f"127.0.0.1:{self.server.ports['SASL_PLAINTEXT']}",
            "username": "app",
            "password": password,
            "config": {"sasl.mechanisms": "SCRAM-SHA-256"},
        }

    @contextmanager
    def credentials(self, case: str | None) -> Iterator[Consumer]:
        options = {
            None: self._login(),
            "wrong password": self._login(self.secret),
            "unknown user": {**self._login(self.secret), "username": "nobody"},
            "no login": {"bootstrap_servers": self._login()["bootstrap_servers"]},
        }[case]
        yield self.new_consumer(timeout=1.5 if case else 10.0, **options)

    @contextmanager
    def tls(self, case: str | None) -> Iterator[Consumer]:
        yield self.new_consumer(
            bootstrap_servers=f"{host_of(case)}:{self.server.ports['SSL']}",
            timeout=1.0 if case else 10.0,
            **tls_options(self.certificates, case),
        )
