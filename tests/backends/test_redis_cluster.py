"""The Redis backend on a real cluster of three nodes: which node, slots that move, nodes away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from django_broadcaster.backends import Message, MessageBackend, RedisStreamBackend
from django_broadcaster.exceptions import (
    BackendUnavailable,
    Held,
    Rejected,
    TransientError,
)
from django_broadcaster.testing import BackendFaultContract, Fault, make_message
from tests.support.batches import kinds, numbers
from tests.support.redis_groups import RedisCluster, redis_cluster
from tests.support.redis_server import RedisServer, free_port
from tests.support.scripted_server import Command, ScriptedRedis
from tests.support.waiting import wait_until

SECONDS = 30.0

MakeBackend = Callable[..., RedisStreamBackend]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """A cluster for all tests that leave it as it was, but for its streams."""
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: RedisCluster) -> RedisCluster:
    """The shared cluster, emptied."""
    for node in shared.nodes:
        node.command("FLUSHALL")
        node.command("CONFIG", "RESETSTAT")
    return shared


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RedisCluster]:
    """A cluster that the test may change."""
    with redis_cluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture
def make() -> Iterator[MakeBackend]:
    """Make backends, which are closed at the end."""
    with ExitStack() as made:

        def make(node: RedisServer, **options: Any) -> RedisStreamBackend:
            options = {"url": node.url, "cluster": True, "socket_timeout": 2.0, **options}
            backend = RedisStreamBackend(alias="default", **options)
            made.callback(backend.close)
            return backend

        yield make


def to(stream: str) -> dict[str, Any]:
    """The argument that sends messages to a stream."""
    return {"config": {"stream_name": stream}}


def ids(node: RedisServer, stream: str) -> list[str]:
    """The event ids in a stream, in order."""
    with node.client() as client:
        return [fields["event_id"] for _, fields in client.xrange(stream)]


def sent(messages: Sequence[Message]) -> list[str]:
    """The ids of messages."""
    return [message.event_id for message in messages]


class TestFaults(BackendFaultContract):
    """A cluster, one of whose nodes has the stream and the fault."""

    backend = RedisStreamBackend
    excluded = dict.fromkeys(
        (Fault.CUT, Fault.TOO_LARGE, Fault.CREDENTIALS, Fault.TLS), "each node is as one server"
    ) | {Fault.MISSING: "a stream is made by its first entry"}
    missing_for_one_error = Rejected
    timeout_options = {"socket_timeout": 0.5, "connect_timeout": 0.5}

    @pytest.fixture(autouse=True)
    def _server(self, cluster: RedisCluster) -> None:
        self.cluster, self.node = cluster, cluster.nodes[1]
        self.stream = cluster.stream_on(self.node)

    def make_backend(self, **options: Any) -> MessageBackend:
        url = self.cluster.nodes[0].url
        options = {"max_len": None, "stream_name": self.stream, **options}
        return RedisStreamBackend(url=url, cluster=True, **options)

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        return [{"id": each} for each in ids(self.node, self.stream)]

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self.node.kill()
        yield
        self.node.start()

    def frozen(self) -> AbstractContextManager[object]:
        return self.node.frozen()

    def missing_for_one(self, case: str) -> Mapping[str, Any]:
        name = self.cluster.stream_on(self.cluster.nodes[2], "no-stream")
        self.cluster.nodes[2].command("SET", name, "x")
        return {"stream_name": name}

    @contextmanager
    def full(self, case: str) -> Iterator[MessageBackend]:
        used = self.node.command("INFO", "memory")["used_memory"]
        self.node.command("CONFIG", "SET", "maxmemory", used + 200_000)
        yield self.new_backend()
        self.node.command("CONFIG", "SET", "maxmemory", 0)


def test_stream_is_found_on_its_node(make: MakeBackend, cluster: RedisCluster) -> None:
    """Whichever node the address names, each stream's events are where its slot is."""
    for entrance in cluster.nodes:
        for node in cluster.nodes:
            stream = cluster.stream_on(node, f"s-{entrance.port}")
            backend = make(entrance, stream_name=stream)
            messages = numbers(10, "key")
            assert backend.send_batch(messages) == [None] * 10
            assert backend.health_check() is True
            assert ids(node, stream) == sent(messages)


def test_host_and_port_do_for_an_address(make: MakeBackend, cluster: RedisCluster) -> None:
    """Without a URL the other nodes are reached with the same options as the first."""
    stream = cluster.stream_on(cluster.nodes[2])
    options = {"url": None, "host": "127.0.0.1", "port": cluster.nodes[0].port}
    backend = make(cluster.nodes[0], stream_name=stream, **options)
    assert backend.send_batch(numbers(3)) == [None] * 3
    assert len(ids(cluster.nodes[2], stream)) == 3


def test_batch_to_several_nodes_is_a_transaction_for_each_stream(
    make: MakeBackend, cluster: RedisCluster
) -> None:
    """Streams on several nodes, two of them on one, get their events in order."""
    first, second, third = cluster.nodes
    streams = {
        cluster.stream_on(first): first,
        cluster.stream_on(second, "a"): second,
        cluster.stream_on(second, "b"): second,
        cluster.stream_on(third): third,
    }
    messages = [
        make_message(data=n, partition_key=stream, **to(stream))
        for n in range(50)
        for stream in streams
    ]
    backend = make(first)
    assert backend.send_batch(messages) == [None] * 200
    for stream, node in streams.items():
        assert ids(node, stream) == sent([m for m in messages if m.partition_key == stream])
    calls = [
        node.command("INFO", "commandstats")["cmdstat_xadd"]["calls"] for node in streams.values()
    ]
    assert calls == [50, 100, 100, 50]


def test_template_spreads_streams_over_nodes(make: MakeBackend, cluster: RedisCluster) -> None:
    """A stream for each key is on the node of its name, and braces of the template tie them."""
    messages = [make_message(data=n, partition_key=f"{{same}}{n % 20}") for n in range(100)]
    assert make(cluster.nodes[0], stream_name="s:{key}").send_batch(messages) == [None] * 100
    spread = [len(node.command("KEYS", "s:*")) for node in cluster.nodes]
    assert sum(spread) == 20
    assert 0 not in spread
    backend = make(cluster.nodes[0], stream_name="{{tied}}:{key}")
    assert backend.send_batch(messages) == [None] * 100
    assert sorted(len(node.command("KEYS", "{tied}:*")) for node in cluster.nodes) == [0, 0, 20]


@pytest.mark.shows("order after a failure in a batch")
def test_key_that_is_no_stream_holds_its_key_only(make: MakeBackend, cluster: RedisCluster) -> None:
    """A key whose events go to streams on several nodes keeps its order when one is refused."""
    wrong, other = (cluster.stream_on(node) for node in cluster.nodes[:2])
    cluster.nodes[0].command("SET", wrong, "x")
    messages = [
        *numbers(1, "a", **to(other)),
        *numbers(1, "a", **to(wrong)),
        *numbers(1, "b", **to(other)),
        *numbers(1, "a", **to(other)),
    ]
    outcomes = make(cluster.nodes[2]).send_batch(messages)
    assert kinds(outcomes) == [None, Rejected, None, Held]
    assert ids(cluster.nodes[1], other) == sent([messages[0], messages[2]])


@pytest.mark.parametrize("entrance", [0, 1])
def test_slot_that_moves(make: MakeBackend, cluster: RedisCluster, entrance: int) -> None:
    """In each step of a move events go where the stream is: none is lost, doubled or overtaken."""
    source, target = cluster.nodes[0], cluster.nodes[1]
    stream = cluster.stream_on(source)
    backend = make(cluster.nodes[entrance], stream_name=stream)
    expected = []
    for _ in ["before", *cluster.move(stream, target), "after"]:
        batch = numbers(10, "key")
        assert backend.send_batch(batch) == [None] * 10
        expected += sent(batch)
    assert ids(target, stream) == expected


@pytest.mark.shows("cluster")
@pytest.mark.chaos
def test_slot_that_moves_under_load(make: MakeBackend, cluster: RedisCluster) -> None:
    """There and back again while events come: all of them arrive once and in order."""
    stream = cluster.stream_on(cluster.nodes[0])
    backend = make(cluster.nodes[2], stream_name=stream)
    published: list[str] = []
    steps: list[str] = []
    failures: list[BaseException] = []

    def move() -> None:
        try:
            for target in (cluster.nodes[1], cluster.nodes[0]):
                for step in cluster.move(stream, target):
                    steps.append(step)
                    enough = len(published) + 500
                    wait_until(lambda n=enough: len(published) > n, SECONDS, "it is under load")
        except BaseException as error:
            failures.append(error)

    mover = threading.Thread(target=move)
    mover.start()
    while mover.is_alive():
        batch = [make_message(data=n, partition_key=f"key-{n % 5}") for n in range(50)]
        outcomes = backend.send_batch(batch)
        assert outcomes == [None] * 50
        published += sent(batch)
    mover.join()
    assert failures == []
    assert len(steps) == 6
    assert ids(cluster.nodes[0], stream) == published


@pytest.mark.chaos
def test_node_that_is_away_costs_the_others_nothing_of_a_batch(
    make: MakeBackend, own: RedisCluster
) -> None:
    """Its events are unavailable, those of the same round for another node are acknowledged; and
    when it is back, delivery goes on."""
    gone, other = own.nodes[1], own.nodes[2]
    streams = own.stream_on(gone), own.stream_on(other)
    backend = make(own.nodes[0], startup_nodes=[("127.0.0.1", other.port)])
    messages = [*numbers(5, "a", **to(streams[0])), *numbers(5, "b", **to(streams[1]))]
    assert backend.send_batch(messages) == [None] * 10
    gone.kill()
    more = [*numbers(5, "a", **to(streams[0])), *numbers(5, "b", **to(streams[1]))]
    assert kinds(backend.send_batch(more)) == [BackendUnavailable] * 5 + [None] * 5
    gone.start()
    _insist(backend, more[:5])
    assert ids(gone, streams[0]) == sent(messages[:5] + more[:5])
    assert ids(other, streams[1]) == sent(messages[5:] + more[5:])


def _insist(backend: RedisStreamBackend, batch: list[Message]) -> None:
    deadline = time.monotonic() + SECONDS
    while kinds(outcomes := backend.send_batch(batch)) != [None] * len(batch):
        assert set(kinds(outcomes)) == {BackendUnavailable}
        assert time.monotonic() < deadline


@pytest.mark.chaos
def test_any_node_that_is_there_tells_of_the_others(make: MakeBackend, own: RedisCluster) -> None:
    """An address that is away is made up for by `startup_nodes`, and later by what was learned."""
    stream = own.stream_on(own.nodes[1])
    options = {"url": f"redis://127.0.0.1:{free_port()}", "stream_name": stream}
    fresh = make(own.nodes[0], **options)
    assert kinds(fresh.send_batch(numbers(1))) == [BackendUnavailable]
    assert fresh.health_check() is False
    started = make(own.nodes[0], **options, startup_nodes=[("127.0.0.1", own.nodes[2].port)])
    assert started.send_batch(numbers(1)) == [None]
    learned = make(own.nodes[0], stream_name=stream)
    assert learned.send_batch(numbers(1)) == [None]
    own.nodes[0].kill()
    own.nodes[1].command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    _insist(learned, numbers(3))


def _is_down(node: RedisServer) -> bool:
    """Take a slot away, again where another node has just told of it; return whether that shows."""
    if "cluster_slots_assigned:16384" in node.raw("CLUSTER", "INFO"):
        node.command("CLUSTER", "DELSLOTS", 16383)
    return "cluster_state:fail" in node.raw("CLUSTER", "INFO")


@pytest.mark.shows("cluster")
def test_cluster_that_is_down_is_unavailable(make: MakeBackend, own: RedisCluster) -> None:
    """CLUSTERDOWN, as a slot has no node, costs no event and passes."""
    stream = own.stream_on(own.nodes[0])
    backend = make(own.nodes[0], stream_name=stream)
    backend.open()
    wait_until(lambda: all(map(_is_down, own.nodes)), 20, "the cluster is down")
    outcomes = backend.send_batch(numbers(2))
    assert kinds(outcomes) == [BackendUnavailable] * 2
    assert "CLUSTERDOWN" in str(outcomes[0])
    own.nodes[2].command("CLUSTER", "ADDSLOTS", 16383)
    _insist(backend, numbers(2))


def test_server_that_is_no_cluster_is_unavailable(make: MakeBackend) -> None:
    """The error says what the server says, and no event pays for the wrong option."""

    def answer(command: Command) -> bytes | None:
        if command[0] == b"CLUSTER":
            return b"-ERR This instance has cluster support disabled\r\n"
        return None

    with ScriptedRedis(answer) as server:
        backend = RedisStreamBackend(
            alias="default", host="127.0.0.1", port=server.port, cluster=True
        )
        outcomes = backend.send_batch(numbers(2))
        backend.close()
    assert kinds(outcomes) == [BackendUnavailable] * 2
    assert "cluster support disabled" in str(outcomes[0])


def test_nodes_that_send_us_round_are_unavailable(make: MakeBackend) -> None:
    """A node that always says MOVED is left after some rounds, and nothing is acknowledged."""
    port: list[int] = []

    def answer(command: Command) -> bytes | None:
        if command[0] == b"CLUSTER":
            host = b"$9\r\n127.0.0.1\r\n"
            node = b"*3\r\n%b:%d\r\n$1\r\nx\r\n" % (host, port[0])
            return b"*1\r\n*3\r\n:0\r\n:16383\r\n%b" % node
        if command[0] == b"XADD":
            return b"-MOVED 1 127.0.0.1:%d\r\n" % port[0]
        if command[0] == b"EXEC" and server.commands[-2][0] == b"XADD":
            return b"-EXECABORT Transaction discarded because of previous errors.\r\n"
        return b"*0\r\n" if command[0] == b"EXEC" else None

    with ScriptedRedis(answer) as server:
        port.append(server.port)
        backend = RedisStreamBackend(
            alias="default", host="127.0.0.1", port=server.port, cluster=True
        )
        outcomes = backend.send_batch(numbers(3, "key"))
        backend.close()
    assert kinds(outcomes) == [BackendUnavailable] * 3
    assert "times in a row" in str(outcomes[0])


def test_user_with_no_more_than_the_documented_permissions(
    make: MakeBackend, cluster: RedisCluster
) -> None:
    """`+xadd +multi +exec +cluster|slots` are enough; a stream it may not write to is retried."""
    allowed = cluster.stream_on(cluster.nodes[1], "allowed")
    for node in cluster.nodes:
        rights = ("~allowed*", "+xadd", "+multi", "+exec", "+cluster|slots")
        node.command("ACL", "SETUSER", "app", "reset", "on", ">secret", *rights)
    url = cluster.nodes[0].url.replace("//", "//app:secret@")
    backend = make(cluster.nodes[0], url=url, stream_name=allowed)
    messages = [*numbers(2, "a"), *numbers(1, "a", **to("private")), *numbers(2, "b")]
    outcomes = backend.send_batch(messages)
    assert kinds(outcomes) == [None, None, TransientError, None, None]
    assert backend.health_check() is True
