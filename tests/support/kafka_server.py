"""Kafka brokers: the shared one, and private ones that a test may kill and freeze.

Both make a topic when a client asks for it, unless it says `allow.auto.create.topics=false`.
"""

from __future__ import annotations

import os
import resource
import signal
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from django_broadcaster.backends.kafka.bounded import bounded
from tests.support.redis_server import free_port, missing
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until
from tools import services
from tools.handshakes import NoAnswer
from tools.kafka_node import LOOPBACK, Node, is_installed
from tools.servers import SERVICES, probe

START_SECONDS = 180.0
READ_SECONDS = 20.0
CLIENT_SECONDS = 60.0

P = ParamSpec("P")
T = TypeVar("T")


def disposable(function: Callable[P, T]) -> Callable[P, T]:
    """Fail instead of hanging, if a client that the function makes can't be disposed of.

    Python waits for the client's threads where the function ends, and no signal interrupts that.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return bounded(partial(function, *args, **kwargs), CLIENT_SECONDS, function.__name__)

    return call


class KafkaServer:
    """A broker of our own, which keeps its port and its data when it is started again.

    `config` has more lines of its server.properties. Besides its port without TLS, it has one for
    each of `listeners`: a security protocol, or "PROXIED" for clients that come through a proxy.
    `advertised` has the ports of the proxies. `node_id` and `controllers` are its place in a
    cluster, and `host` is the address for clients; see `Node`.
    """

    def __init__(
        self,
        folder: Path,
        config: str = "",
        listeners: Sequence[str] = (),
        *,
        node_id: int = 1,
        controllers: Mapping[int, int] | None = None,
        host: str = LOOPBACK,
    ) -> None:
        if not is_installed():
            missing("Java and Maven, for Apache Kafka")
        self.host = host
        self.port = free_port()
        self.ports = {protocol: free_port() for protocol in listeners}
        self.advertised: dict[str, int] = {}
        self._folder = folder
        self._config = config
        self._place: Any = {"node_id": node_id, "controllers": controllers, "host": host}
        self._log = folder / f"kafka-{self.port}.log"
        self._node: Node | None = None

    @property
    def servers(self) -> str:
        """The server's address, as `bootstrap_servers`."""
        return f"{self.host}:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it, and do not wait: a node of a cluster answers once most of them run."""
        where = (self._folder, self.port, self._config, self.ports, self.advertised)
        self._node = Node(*where, **self._place)
        with self._log.open("ab") as log:
            self._node.start(log)

    def wait(self) -> None:
        """Wait until it answers; end it if it does not."""
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
        os.waitpid(self.pid, os.WUNTRACED)  # until none of its threads runs any more

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

    @contextmanager
    def disk_full(self, size: int) -> Iterator[None]:
        """Let no file grow beyond `size` bytes for the time of the block, and restart it then.

        Kafka ends at the first write to its only disk that fails.
        """
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        yield
        self.restart()

    def record_batches(self, topic: str) -> Mapping[int, Sequence[int]]:
        """Return how many records each record batch in a topic has, by partition."""
        folders = (self._folder / f"kafka-{self.port}").glob(f"{topic}-*")
        return {
            int(folder.name.removeprefix(f"{topic}-")): [
                count for file in sorted(folder.glob("*.log")) for count in _batches(file)
            ]
            for folder in folders
        }

    @property
    def runs(self) -> bool:
        """Whether it was started and not killed, frozen or not."""
        return self._node is not None and self._node.process is not None

    @property
    def pid(self) -> int:
        """The id of its process, while it runs."""
        assert self._node is not None
        assert self._node.process is not None
        return self._node.process.pid

    def _signal(self, signum: signal.Signals) -> None:
        os.kill(self.pid, signum)

    def _answers(self) -> bool:
        assert self._node is not None
        process = self._node.process
        if process is None or process.poll() is not None:
            pytest.fail(f"Kafka has ended: {self._log.read_text()}")
        return answers(f"kafka://{self.servers}")


def _batches(file: Path) -> Iterator[int]:
    """Return how many records each record batch in a segment of a log has.

    https://kafka.apache.org/documentation/#recordbatch
    """
    log, place = file.read_bytes(), 0
    while place < len(log):
        (length,) = struct.unpack_from(">i", log, place + 8)
        (count,) = struct.unpack_from(">i", log, place + 57)
        yield count
        place += 12 + length


def answers(url: str) -> bool:
    """Whether a broker is at the address."""
    try:
        probe(SERVICES["kafka"], url)
    except NoAnswer:
        return False
    return True


@contextmanager
def kafka_server(
    folder: Path, config: str = "", listeners: Sequence[str] = ()
) -> Iterator[KafkaServer]:
    """A running broker for the time of the block."""
    with running(KafkaServer(folder, config, listeners)) as server:
        yield server


@contextmanager
def proxied_kafka(
    folder: Path, config: str = "", listeners: Sequence[str] = ()
) -> Iterator[tuple[KafkaServer, TcpProxy]]:
    """A running broker, and a proxy: clients that connect to it stay with it."""
    server = KafkaServer(folder, config, [*listeners, "PROXIED"])
    with TcpProxy("127.0.0.1", server.ports["PROXIED"]) as proxy:
        server.advertised["PROXIED"] = proxy.port
        with running(server):
            yield server, proxy


SASL = """
sasl.enabled.mechanisms=SCRAM-SHA-256
listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config=\
  org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=\
  org.apache.kafka.common.security.scram.ScramLoginModule required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=true
"""
"""The configuration of a broker with users, and with permissions, on its ports for SASL."""


def tls_config(folder: Path, certificates: Path, protocol: str = "SSL") -> str:
    """Return the lines for a port that speaks TLS, and wants a certificate of the client."""
    own = folder / "server.pem"
    own.write_text((certificates / "server.key").read_text())
    with own.open("a") as file:
        file.write((certificates / "server.pem").read_text())
    lines = {
        "keystore.type": "PEM",
        "keystore.location": own,
        "truststore.type": "PEM",
        "truststore.location": certificates / "ca.pem",
        "client.auth": "required",
    }
    prefix = f"listener.name.{protocol.lower()}.ssl"
    return "".join(f"\n{prefix}.{name}={value}" for name, value in lines.items())


@disposable
def add_user(server: KafkaServer, name: str, password: str) -> None:
    """Let a user log in at a broker with `SASL`."""
    credential = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
    change = UserScramCredentialUpsertion(name, credential, password.encode())
    admin = AdminClient({"bootstrap.servers": server.servers})
    for done in admin.alter_user_scram_credentials([change]).values():
        done.result(READ_SECONDS)


def forbid(
    server: KafkaServer,
    name: str,
    resource: str,
    operation: AclOperation = AclOperation.ALL,
    *,
    kind: ResourceType = ResourceType.TOPIC,
    by_prefix: bool = False,
) -> AbstractContextManager[None]:
    """Forbid a user of a broker with `SASL` a topic, for the time of the block.

    `kind` is another kind of resource. With `by_prefix` all are forbidden that begin so.
    """
    pattern = ResourcePatternType.PREFIXED if by_prefix else ResourcePatternType.LITERAL
    rule = AclBinding(
        *(kind, resource, pattern, f"User:{name}"),
        *("*", operation, AclPermissionType.DENY),
    )
    return _changed(
        server.servers,
        lambda admin: admin.create_acls([rule]),
        lambda admin: admin.delete_acls([_as_filter(rule)]),
    )


def changed(servers: str, topic: str, option: str, value: str) -> AbstractContextManager[None]:
    """Give a topic another value of an option, for the time of the block."""

    def change(operation: AlterConfigOpType, value: str | None) -> Change:
        entry = ConfigEntry(option, value, incremental_operation=operation)
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
        return lambda admin: admin.incremental_alter_configs([resource])

    return _changed(
        servers, change(AlterConfigOpType.SET, value), change(AlterConfigOpType.DELETE, None)
    )


Change = Callable[[AdminClient], Mapping[Any, Future[Any]]]


@contextmanager
def _changed(servers: str, change: Change, undo: Change) -> Iterator[None]:
    _alter(servers, change)
    yield
    _alter(servers, undo)


@disposable
def _alter(servers: str, change: Change) -> None:
    admin = AdminClient({"bootstrap.servers": servers})
    for done in change(admin).values():
        done.result(READ_SECONDS)


def _as_filter(rule: AclBinding) -> AclBindingFilter:
    return AclBindingFilter(
        *(rule.restype, rule.name, rule.resource_pattern_type, rule.principal),
        *(rule.host, rule.operation, rule.permission_type),
    )


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


@disposable
def delete_topic(servers: str, topic: str) -> None:
    """Delete a topic, and wait until it is gone."""
    admin = AdminClient({"bootstrap.servers": servers})
    admin.delete_topics([topic])[topic].result(READ_SECONDS)

    def is_gone() -> bool:
        return topic not in admin.list_topics(timeout=READ_SECONDS).topics

    wait_until(is_gone, READ_SECONDS, f"no topic {topic}")


@disposable
def add_partitions(servers: str, topic: str, total: int) -> None:
    """Give a topic more partitions, that many in all."""
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_partitions([NewPartitions(topic, total)])[topic].result(READ_SECONDS)
    _wait_for_leaders(admin, topic, total)


@disposable
def make_topic(
    servers: str,
    partitions: int = 1,
    *,
    name: str = "",
    config: Mapping[str, str] | None = None,
    replicas: Sequence[Sequence[int]] | None = None,
) -> str:
    """Make a topic, which nobody else uses unless it is named; return its name.

    `replicas` has the brokers of each partition, the first of which leads; without it the cluster
    chooses, as many as it has by default.
    """
    name = name or f"test-{uuid4()}"
    admin = AdminClient({"bootstrap.servers": servers})
    options: dict[str, Any] = {"config": dict(config or {})}
    if replicas is not None:
        partitions, options["replica_assignment"] = len(replicas), [*map(list, replicas)]
    topic = NewTopic(name, partitions, **options)
    admin.create_topics([topic])[name].result(READ_SECONDS)

    _wait_for_leaders(admin, name, partitions)
    return name


def _wait_for_leaders(admin: AdminClient, topic: str, partitions: int) -> None:
    def have_leaders() -> bool:
        found = admin.list_topics(topic, timeout=READ_SECONDS).topics[topic]
        leaders = [partition.leader for partition in found.partitions.values()]
        return len(leaders) == partitions and min(leaders) >= 0

    wait_until(have_leaders, READ_SECONDS, f"topic {topic} has leaders")


@disposable
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


@disposable
def produce(
    servers: str,
    topic: str,
    found: Iterable[tuple[bytes | None, bytes | None, Mapping[str, bytes]]],
) -> None:
    """Append records of a key, a value and headers, in order."""
    failures: list[object] = []

    def report(error: object, _: object) -> None:
        if error is not None:
            failures.append(error)

    producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True})
    for key, value, headers in found:
        producer.produce(topic, value, key, headers=list(headers.items()), on_delivery=report)
    assert producer.flush(READ_SECONDS) == 0
    assert failures == []


@disposable
def committed_offsets(servers: str, group: str, topic: str) -> Mapping[int, int]:
    """Return the offsets that a group has committed, by partition."""
    admin = AdminClient({"bootstrap.servers": servers})
    asked = [ConsumerGroupTopicPartitions(group)]
    (answer,) = admin.list_consumer_group_offsets(asked).values()
    found = answer.result(READ_SECONDS).topic_partitions
    return {each.partition: each.offset for each in found if each.topic == topic}


@disposable
def reported_lag(servers: str, group: str, topics: Collection[str]) -> int:
    """Return the lag of a group as Kafka's own tools work it out.

    For each partition with a committed offset, it is the end of what can be read without it.
    """
    admin = AdminClient({"bootstrap.servers": servers})
    (answer,) = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
    committed = [
        each
        for each in answer.result(READ_SECONDS).topic_partitions
        if each.topic in topics and each.offset >= 0
    ]
    latest = {TopicPartition(each.topic, each.partition): OffsetSpec.latest() for each in committed}
    ends = {
        (each.topic, each.partition): found.result(READ_SECONDS).offset
        for each, found in admin.list_offsets(latest).items()
    }
    return sum(ends[each.topic, each.partition] - each.offset for each in committed)


@disposable
def members(servers: str, group: str) -> Mapping[str, Collection[int]]:
    """Return the partitions of each member of a group that has a name: `group.instance.id`."""
    admin = AdminClient({"bootstrap.servers": servers})
    (answer,) = admin.describe_consumer_groups([group]).values()
    return {
        each.group_instance_id: {place.partition for place in each.assignment.topic_partitions}
        for each in answer.result(READ_SECONDS).members
        if each.group_instance_id
    }


def headers_of(record: Message) -> Mapping[str, Any]:
    """Return a record's headers by name; each is there once."""
    headers = record.headers() or []
    assert len(dict(headers)) == len(headers)
    return dict(headers)
