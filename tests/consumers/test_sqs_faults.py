"""The SQS consumer and what goes wrong, against moto's server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal
from uuid import uuid4

import boto3
import pytest

from django_broadcaster.consumers import Consumer, SQSConsumer
from django_broadcaster.events import CloudEvent
from django_broadcaster.testing import ConsumerFault, ConsumerFaultContract
from tests.backends.test_aws import client_options, server
from tests.backends.test_aws_faults import guarded, tls_server
from tests.support.aws_server import ACCOUNT, AWSServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.tls_cases import SERVER_CASES, tls_options

__all__ = ["guarded", "server", "tls_server"]  # fixtures


class TestStandardFaults(ConsumerFaultContract):
    """A standard queue, through a proxy.

    Moto forgets its messages when it is stopped. A server that hangs is like one that is stopped.
    """

    keeps_order = False
    cases: ClassVar[Mapping[ConsumerFault, Sequence[str]]] = {
        ConsumerFault.CREDENTIALS: ("unknown key", "wrong secret"),
        ConsumerFault.TLS: tuple(case for case in SERVER_CASES if case != "another name"),
    }
    timeout_options = {"timeout": 1.0, "visibility_timeout": 3}
    missing = "queue"
    suffix = ""

    @pytest.fixture(autouse=True)
    def _server(self, server: AWSServer, request: pytest.FixtureRequest) -> Iterator[None]:
        self.server, self.request = server, request
        self.make_queue(client_options(server.url))
        with TcpProxy("127.0.0.1", server.port) as self.proxy:
            yield

    def make_queue(self, client: Mapping[str, Any]) -> None:
        """Make the queue of the test, on some server."""
        self.name = f"c{uuid4().hex}{self.suffix}"
        with closing(boto3.client("sqs", **client)) as sqs:
            sqs.create_queue(QueueName=self.name, Attributes=self.attributes)

    @property
    def attributes(self) -> dict[str, str]:
        """What a queue is made with."""
        return {"FifoQueue": "true"} if self.suffix else {}

    def make_consumer(self, **options: Any) -> Consumer:
        client = client_options(f"http://127.0.0.1:{self.proxy.port}")
        queue_url = f"{self.server.url}/{ACCOUNT}/{self.name}"
        defaults = {"queue_url": queue_url, "client": client}
        return SQSConsumer(**{**defaults, **options})

    def produce(self, events: Sequence[CloudEvent]) -> None:
        entries = [
            {"Id": str(number), "MessageBody": event.to_json().decode(), **self.group(event)}
            for number, event in enumerate(events)
        ]
        with closing(boto3.client("sqs", **client_options(self.server.url))) as sqs:
            url = f"{self.server.url}/{ACCOUNT}/{self.name}"
            for start in range(0, len(entries), 10):
                sqs.send_message_batch(QueueUrl=url, Entries=entries[start : start + 10])

    def group(self, event: CloudEvent) -> dict[str, str]:
        """Return what an entry for a FIFO queue has in addition."""
        if not self.suffix:
            return {}
        return {"MessageGroupId": str(event.partition_key), "MessageDeduplicationId": event.id}

    def stopped(self) -> AbstractContextManager[object]:
        return self.server.hanging()

    def connection_cut(
        self, direction: Literal["request", "reply"], after: int
    ) -> AbstractContextManager[object]:
        return self.proxy.cut(direction, after)

    def frozen(self) -> AbstractContextManager[object]:
        return self.server.hanging()

    @contextmanager
    def source_missing(self, case: str) -> Iterator[Consumer]:
        with closing(boto3.client("sqs", **client_options(self.server.url))) as sqs:
            sqs.delete_queue(QueueUrl=f"{self.server.url}/{ACCOUNT}/{self.name}")
            yield self.new_consumer()
            sqs.create_queue(QueueName=self.name, Attributes=self.attributes)

    @contextmanager
    def credentials(self, case: str | None) -> Iterator[Consumer]:
        right = self.request.getfixturevalue("guarded")
        self.make_queue(right)
        wrong = {
            None: {},
            "unknown key": {"aws_access_key_id": "nobody"},
            "wrong secret": {"aws_secret_access_key": self.secret},
        }[case]
        yield self.new_consumer(client={**right, **wrong})

    @contextmanager
    def tls(self, case: str | None) -> Iterator[Consumer]:
        files: Path = self.request.getfixturevalue("certificates")
        options = client_options(self.request.getfixturevalue("tls_server").url)
        self.make_queue({**options, "verify": str(files / "ca.pem")})
        if case == "no TLS":
            options["endpoint_url"] = options["endpoint_url"].replace("https", "http")
        yield self.new_consumer(client=options, timeout=3.0, **tls_options(files, case))


class TestFifoFaults(TestStandardFaults):
    """A FIFO queue."""

    keeps_order = True
    suffix = ".fifo"
