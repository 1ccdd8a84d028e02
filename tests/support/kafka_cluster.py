"""A Kafka cluster of three brokers, each of which a test may kill, freeze and start again.

Each node is broker and controller, so two of the three must run for partitions to get new leaders.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka.admin import AdminClient, PartitionMetadata

from tests.support.kafka_server import READ_SECONDS, KafkaServer, disposable
from tests.support.redis_server import free_port
from tests.support.waiting import wait_until
from tools.kafka_node import LOOPBACK

HEAL_SECONDS = 180.0

_CONFIG = """
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
auto.leader.rebalance.enable=false
"""
"""Topics have three replicas and need two; leaders change when brokers fail, and not otherwise."""


class KafkaCluster:
    """Three brokers, numbered from 1, which keep their ports and their data.

    `config` has more lines of each one's server.properties. `host` is their address for clients.
    """

    def __init__(self, folder: Path, config: str = "", host: str = LOOPBACK) -> None:
        controllers = {number: free_port() for number in (1, 2, 3)}
        self.brokers = {
            number: KafkaServer(
                folder, _CONFIG + config, node_id=number, controllers=controllers, host=host
            )
            for number in controllers
        }

    @property
    def servers(self) -> str:
        """The addresses of all, as `bootstrap_servers`."""
        return ",".join(broker.servers for broker in self.brokers.values())

    def heal(self) -> None:
        """Have all brokers run, and wait until every partition has all of its replicas in sync."""
        for broker in self.brokers.values():
            if broker.runs:
                broker.resume()
            else:
                broker.launch()
        for broker in self.brokers.values():
            broker.wait()
        wait_until(self._is_healthy, HEAL_SECONDS, "all replicas are in sync")

    def kill(self) -> None:
        """SIGKILL all of them."""
        for broker in self.brokers.values():
            broker.kill()

    def leader(self, topic: str, partition: int = 0) -> int:
        """Return the number of the broker that leads a partition, -1 if there is none."""
        return int(self._partition(topic, partition).leader)

    def in_sync(self, topic: str, partition: int = 0) -> set[int]:
        """Return the brokers that have all of a partition, by number."""
        return set(self._partition(topic, partition).isrs)

    @disposable
    def _partition(self, topic: str, partition: int) -> PartitionMetadata:
        found = _admin(self.servers).list_topics(topic, timeout=READ_SECONDS)
        return found.topics[topic].partitions[partition]

    def _is_healthy(self) -> bool:
        """Ask each broker: one that was frozen knows only what was, for a moment."""
        return all(self._sees_all(broker.servers) for broker in self.brokers.values())

    @disposable
    def _sees_all(self, servers: str) -> bool:
        found = _admin(servers).list_topics(timeout=READ_SECONDS)
        return len(found.brokers) == len(self.brokers) and all(
            partition.leader >= 0 and set(partition.isrs) == set(partition.replicas)
            for topic in found.topics.values()
            for partition in topic.partitions.values()
        )


def _admin(servers: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": servers, "log_level": 0})


@contextmanager
def kafka_cluster(folder: Path, config: str = "", host: str = LOOPBACK) -> Iterator[KafkaCluster]:
    """A healthy cluster for the time of the block."""
    cluster = KafkaCluster(folder, config, host)
    try:
        cluster.heal()
        yield cluster
    finally:
        cluster.kill()
