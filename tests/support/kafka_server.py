"""Kafka brokers: the shared one, and private ones that a test may kill and freeze.

Both make a topic when a client asks for it, unless it says `allow.auto.create.topics=false`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.support.redis_server import free_port, missing
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until
from tools import services
from tools.handshakes import NoAnswer
from tools.kafka_node import Node, is_installed
from tools.servers import SERVICES, probe

START_SECONDS = 60.0
READ_SECONDS = 20.0


class KafkaServer:
    """A broker of our own, which keeps its port and its data when it is started again.

    `advertised` is the port that clients use, which a proxy may listen on. `config` has more lines
    of its server.properties.
    """

    def __init__(self, folder: Path, config: str = "") -> None:
        if not is_installed():
            missing("Java and Maven, for Apache Kafka")
        self.port = self.advertised = free_port()
        self._folder = folder
        self._config = config
        self._log = folder / f"kafka-{self.port}.log"
        self._node: Node | None = None

    @property
    def servers(self) -> str:
        """The server's address, as `bootstrap_servers`."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._node = Node(self._folder, self.port, self._config, self.advertised)
        with self._log.open("ab") as log:
            self._node.start(log)
        try:
            wait_until(self._answers, START_SECONDS, "Kafka answers")
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL it, and wait for its end."""
        if self._node is not None:
            self._node.kill()

    def restart(self) -> None:
        """SIGKILL it, and start it again."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """Let it hang (SIGSTOP): the system accepts connections for it, and nothing is answered."""
        self._signal(signal.SIGSTOP)
        os.waitpid(self._pid, os.WUNTRACED)  # until none of its threads runs any more

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it hang for the time of the block."""
        self.stop()
        try:
            yield
        finally:
            self.resume()

    @property
    def _pid(self) -> int:
        assert self._node is not None
        assert self._node.process is not None
        return self._node.process.pid

    def _signal(self, signum: signal.Signals) -> None:
        os.kill(self._pid, signum)

    def _answers(self) -> bool:
        assert self._node is not None
        process = self._node.process
        if process is None or process.poll() is not None:
            pytest.fail(f"Kafka has ended: {self._log.read_text()}")
        return answers(f"kafka://{self.servers}")


def answers(url: str) -> bool:
    """Whether a broker is at the address."""
    try:
        probe(SERVICES["kafka"], url)
    except NoAnswer:
        return False
    return True


@contextmanager
def kafka_server(folder: Path, config: str = "") -> Iterator[KafkaServer]:
    """A running broker for the time of the block."""
    with running(KafkaServer(folder, config)) as server:
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
    """The address of the broker that all tests share: use topics and groups of your own."""
    url = services.address("kafka")
    if not url or not answers(url):
        missing(f"a Kafka broker, at {url or 'the address in BROADCASTER_KAFKA_URL'}")
    return urlsplit(url).netloc


def make_topic(
    servers: str,
    partitions: int = 1,
    *,
    name: str = "",
    config: Mapping[str, str] | None = None,
) -> str:
    """Make a topic, which nobody else uses unless it is named; return its name."""
    name = name or f"test-{uuid4()}"
    admin = AdminClient({"bootstrap.servers": servers})
    topic = NewTopic(name, partitions, 1, config=dict(config or {}))
    admin.create_topics([topic])[name].result(READ_SECONDS)

    def is_known() -> bool:
        found = admin.list_topics(name, timeout=READ_SECONDS).topics[name]
        leaders = [partition.leader for partition in found.partitions.values()]
        return len(leaders) == partitions and min(leaders) >= 0

    wait_until(is_known, READ_SECONDS, f"topic {name} has leaders")
    return name


def records(servers: str, topic: str) -> list[Message]:
    """Return what is in a topic, partition by partition and in order.

    A mark is put at the end of each partition, and records are read up to there.
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
