"""Groups of Redis servers of our own: a master with replicas and a sentinel, and a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.crc import key_slot

from tests.support.redis_server import RedisServer, free_port, redis_server
from tests.support.waiting import wait_until

SECONDS = 30.0
MASTER = "main"
PASSWORD = "server-secret"
SENTINEL_PASSWORD = "sentinel-secret"


@dataclass
class Watched:
    """Servers, the first of which is the master at first, and the sentinel that watches them."""

    servers: list[RedisServer]
    sentinel: RedisServer

    def master(self) -> RedisServer:
        """Whom the sentinel takes for the master."""
        state = self.sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
        return next(each for each in self.servers if each.port == int(state[1]))

    def options(self) -> dict[str, Any]:
        """Options of a backend; of the sentinels, one is away."""
        return {
            "sentinels": [("127.0.0.1", free_port()), ("127.0.0.1", self.sentinel.port)],
            "sentinel_master": MASTER,
            "password": PASSWORD,
            "sentinel_password": SENTINEL_PASSWORD,
        }


@contextmanager
def watched_servers(folder: Path, replicas: int) -> Iterator[Watched]:
    """A master with replicas and a sentinel, all of them with passwords."""
    with ExitStack() as running:
        servers: list[RedisServer] = []
        for number in range(1 + replicas):
            arguments = ["--requirepass", PASSWORD, "--masterauth", PASSWORD]
            arguments += ["--appendonly", "yes", "--repl-diskless-sync-delay", "0"]
            server = _server(folder / f"server-{number}", *arguments, password=PASSWORD)
            running.callback(server.kill)
            server.start()
            if servers:
                server.command("REPLICAOF", "127.0.0.1", servers[0].port)
            servers.append(server)
        wait_until(lambda: confirm(servers[0], replicas), SECONDS, "the replicas have caught up")
        sentinel = _sentinel(folder / "sentinel", servers[0].port)
        running.callback(sentinel.kill)
        sentinel.start()
        # Else it looks at each server every ten seconds only.
        sentinel.command("SENTINEL", "DEBUG", "INFO-PERIOD", 300, "PUBLISH-PERIOD", 200)
        wait_until(
            lambda: len(sentinel.command("SENTINEL", "REPLICAS", MASTER)) == replicas,
            SECONDS,
            "the sentinel knows the replicas",
        )
        yield Watched(servers, sentinel)


def confirm(master: RedisServer, replicas: int) -> bool:
    """Whether as many replicas, and no more, are connected and confirm what is written now."""
    with master.client() as client:
        client.set("probe", "x")
        confirmed = client.wait(replicas, 100)
        return bool(client.info("replication")["connected_slaves"] == confirmed == replicas)


def _server(folder: Path, *arguments: str, password: str) -> RedisServer:
    folder.mkdir()
    server = RedisServer(folder, *arguments)
    server.password = password
    return server


def _sentinel(folder: Path, port: int) -> RedisServer:
    config = folder / "sentinel.conf"
    server = _server(folder, str(config), "--sentinel", password=SENTINEL_PASSWORD)
    config.write_text(
        f"requirepass {SENTINEL_PASSWORD}\n"
        f"sentinel monitor {MASTER} 127.0.0.1 {port} 1\n"
        f"sentinel auth-pass {MASTER} {PASSWORD}\n"
        f"sentinel down-after-milliseconds {MASTER} 500\n"
        f"sentinel failover-timeout {MASTER} 3000\n"
        f"sentinel parallel-syncs {MASTER} 5\n"
    )
    return server


class RedisCluster:
    """The nodes of a cluster, each with a third of the slots and without a replica."""

    def __init__(self, nodes: list[RedisServer]) -> None:
        self.nodes = nodes

    def owner(self, stream: str) -> RedisServer:
        """The node that has a stream, as the first one sees it."""
        for first, last, master, *_ in self.nodes[0].raw("CLUSTER", "SLOTS"):
            if first <= key_slot(stream.encode()) <= last:
                return next(each for each in self.nodes if each.port == master[1])
        raise AssertionError(f"no node has {stream!r}")

    def stream_on(self, node: RedisServer, prefix: str = "stream") -> str:
        """A name whose slot a node has."""
        names = (f"{prefix}-{number}" for number in range(1000))
        return next(name for name in names if self.owner(name) is node)

    def move(self, stream: str, target: RedisServer) -> Iterator[str]:
        """Move the slot of a stream, step by step; yields what the step was."""
        source, slot = self.owner(stream), key_slot(stream.encode())
        names = {each.port: each.command("CLUSTER", "MYID") for each in (source, target)}
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source.port])
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target.port])
        yield "the slot is on its way, the stream is not"
        source.command("MIGRATE", "127.0.0.1", target.port, stream, 0, 5000)
        yield "the stream has gone, the slot has not"
        for node in (target, source, *self.nodes):
            node.command("CLUSTER", "SETSLOT", slot, "NODE", names[target.port])
        yield "the slot has gone"


@contextmanager
def redis_cluster(folder: Path) -> Iterator[RedisCluster]:
    """Three nodes for the time of the block."""
    with ExitStack() as running:
        nodes, buses = [], []
        for number in range(3):
            (folder / f"node-{number}").mkdir()
            buses.append(free_port())
            arguments = ["--cluster-enabled", "yes", "--cluster-port", str(buses[-1])]
            arguments += ["--cluster-node-timeout", "2000", "--appendonly", "yes"]
            nodes.append(running.enter_context(redis_server(folder / f"node-{number}", *arguments)))
        for number, node in enumerate(nodes):
            first, last = 16384 * number // 3, 16384 * (number + 1) // 3 - 1
            node.command("CLUSTER", "ADDSLOTSRANGE", first, last)
            node.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for bus, node in zip(buses, nodes, strict=True):
            nodes[0].command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        wait_until(lambda: all(map(_is_complete, nodes)), SECONDS, "the cluster is up")
        yield RedisCluster(nodes)


def _is_complete(node: RedisServer) -> bool:
    state = node.raw("CLUSTER", "INFO").replace("\r", "").split("\n")
    return {"cluster_state:ok", "cluster_slots_ok:16384", "cluster_size:3"} <= set(state)
