"""The Kafka backend on three brokers that are killed and frozen: replicas, leaders, partitions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial

import pytest
from confluent_kafka import KafkaError, Producer

from django_broadcaster.backends import KafkaBackend
from django_broadcaster.exceptions import BackendUnavailable
from django_broadcaster.models import OutboxEvent
from django_broadcaster.testing import Fault
from tests.relay.conftest import workers
from tests.support.batches import numbers
from tests.support.events import count, first_arrivals
from tests.support.java import run_java
from tests.support.kafka_cluster import KafkaCluster, kafka_cluster
from tests.support.kafka_server import READ_SECONDS, disposable, make_topic, records
from tests.support.waiting import wait_until
from tests.support.workers import Workers
from tests.support.writers import writing

__all__ = ["workers"]

pytestmark = [pytest.mark.chaos, pytest.mark.long, pytest.mark.timeout(900)]

SECONDS = 180.0
"""The longest that a step may take: a leader is replaced after about three seconds."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """Three brokers."""
    with kafka_cluster(tmp_path_factory.mktemp("kafka")) as cluster:
        yield cluster


@pytest.fixture
def cluster(running: KafkaCluster) -> KafkaCluster:
    """Three brokers, all well."""
    running.heal()
    return running


class Load:
    """Writers publish for a topic, and a relay in a process of its own delivers."""

    def __init__(self, cluster: KafkaCluster, workers: Workers, topic: str) -> None:
        self.cluster = cluster
        self.topic = topic
        self.repeats = 0
        self._workers = workers

    @contextmanager
    def running(self, timeout: float) -> Iterator[None]:
        """Publish for the time of the block; after it, judge what arrived.

        Everything has arrived, the first times of each key in order. No event has spent a retry.
        """
        options = {
            "bootstrap_servers": self.cluster.servers,
            "topic": self.topic,
            "timeout": timeout,
        }
        backend = "django_broadcaster.backends.KafkaBackend"
        with writing("default", "abcd", max_retries=0) as writers:
            worker = self._workers.start(
                "default",
                OUTBOX_PUBLISHERS={"default": {"BACKEND": backend, "OPTIONS": options}},
                OUTBOX_CIRCUIT={"maximum": 0.5},
            )
            self.goes_on()
            yield
            self.goes_on()
            writers.stop()
            unsettled = OutboxEvent.objects.exclude(status="published")
            wait_until(lambda: not unsettled.exists(), SECONDS, f"every event\n{worker.output}")
            worker.stop()
            assert worker.end() == 0
        arrived = self.arrived()
        assert first_arrivals(arrived) == first_arrivals(writers.committed)
        assert not OutboxEvent.objects.filter(retry_count__gt=0).exists()
        self.repeats = len(arrived) - len(writers.committed)

    def goes_on(self) -> None:
        """Wait until a hundred more events are delivered."""
        enough = count("published", "default") + 100
        wait_until(lambda: count("published", "default") >= enough, SECONDS, "deliveries")

    def is_stuck(self) -> None:
        """Wait until the relay has noticed that it can't deliver, and events pile up."""
        enough = count("pending", "default") + 200
        wait_until(lambda: count("pending", "default") >= enough, SECONDS, "an outage under load")

    def arrived(self) -> list[str]:
        """Return the names of the events in the topic, partition by partition."""
        found = records(self.cluster.servers, self.topic)
        return [json.loads(record.value() or b"")["subject"] for record in found]


@pytest.fixture
def load(committing: None, cluster: KafkaCluster, workers: Workers) -> Load:
    """Load on a topic of one partition."""
    return Load(cluster, workers, make_topic(cluster.servers))


# --- Brokers that are away ---------------------------------------------------------------------


@pytest.mark.shows("leader killed under load")
def test_killed_leader_costs_nothing(load: Load) -> None:
    """Each leader in turn is killed: no event is lost or doubled, and each key is in order.

    The backend's timeout is longer than the election of a leader.
    """
    cluster = load.cluster
    with load.running(timeout=SECONDS):
        for _ in range(3):
            leader = cluster.leader(load.topic)
            cluster.brokers[leader].kill()
            wait_until(lambda: cluster.leader(load.topic) not in (leader, -1), SECONDS, "a leader")  # noqa: B023
            load.goes_on()
            cluster.heal()
    assert load.repeats == 0


@pytest.mark.shows("broker frozen under load")
@pytest.mark.parametrize("role", ["leader", "follower"])
def test_frozen_broker_stops_nothing(load: Load, role: str) -> None:
    """The others go on without a broker that is frozen, and it catches up later."""
    cluster = load.cluster
    with load.running(timeout=2.0):
        leader = cluster.leader(load.topic)
        (follower, *_) = cluster.brokers.keys() - {leader}
        frozen = leader if role == "leader" else follower
        with cluster.brokers[frozen].frozen():
            wait_until(lambda: frozen not in cluster.in_sync(load.topic), SECONDS, "it is missed")
            assert cluster.leader(load.topic) != frozen
            load.goes_on()
        cluster.heal()


@pytest.mark.shows(Fault.FULL)
def test_full_disk_of_a_leader_costs_nothing(load: Load) -> None:
    """A broker whose disk is full ends, and another one leads: no event is lost or doubled."""
    cluster = load.cluster
    with load.running(timeout=SECONDS):
        leader = cluster.leader(load.topic)
        with cluster.brokers[leader].disk_full(0):
            wait_until(lambda: cluster.leader(load.topic) not in (leader, -1), SECONDS, "a leader")
            load.goes_on()
        cluster.heal()
    assert load.repeats == 0


@pytest.mark.shows(Fault.FULL)
@pytest.mark.parametrize("timeout", [2.0, SECONDS], ids=["outage", "in time"])
def test_too_few_replicas_are_waited_for(load: Load, timeout: float) -> None:
    """While `NOT_ENOUGH_REPLICAS` is the answer, events wait; delivery goes on with the replica.

    Within the timeout, nothing is doubled.
    """
    cluster, (leader, follower) = load.cluster, (1, 2)
    load.topic = make_topic(cluster.servers, replicas=[[leader, follower]])
    with load.running(timeout):
        cluster.brokers[follower].kill()
        wait_until(lambda: cluster.in_sync(load.topic) == {leader}, SECONDS, "one replica is left")
        wait_until(partial(refuses, cluster, load.topic), SECONDS, "NOT_ENOUGH_REPLICAS")
        load.is_stuck()
        cluster.heal()
    assert timeout < SECONDS or load.repeats == 0


@pytest.mark.parametrize(
    ("replicas", "reason"), [([1, 2], "1 of 2 replicas in sync"), ([2], "no leader")]
)
def test_error_says_why_there_is_no_answer(
    cluster: KafkaCluster, replicas: Sequence[int], reason: str
) -> None:
    """The error names the partition that takes no records, and why, as librdkafka does not."""
    topic = make_topic(cluster.servers, replicas=[replicas])
    where = {"bootstrap_servers": cluster.servers, "topic": topic, "timeout": SECONDS}
    with closing(KafkaBackend(alias="default", **where)) as backend:
        assert backend.send_batch(numbers(1)) == [None]
        backend.connection().timeout = 1.0
        cluster.brokers[2].kill()
        wait_until(lambda: cluster.in_sync(topic) <= {1}, SECONDS, "the broker is missed")
        (outcome,) = backend.send_batch(numbers(1))
        assert isinstance(outcome, BackendUnavailable)
        assert "no answer within 1.0 s" in str(outcome)
        assert f"partition 0 of topic '{topic}' has {reason}" in str(outcome)


@disposable
def refuses(cluster: KafkaCluster, topic: str) -> bool:
    """Tell whether a producer without retries gets `NOT_ENOUGH_REPLICAS` for a record."""
    answers: list[KafkaError | None] = []

    def report(error: KafkaError | None, _: object) -> None:
        answers.append(error)

    config = {"acks": "all", "retries": 0, "message.timeout.ms": 10_000}
    producer = Producer({"bootstrap.servers": cluster.servers, **config})
    producer.produce(topic, b"", b"mark-", on_delivery=report)
    producer.flush(READ_SECONDS)
    return [error and error.name() for error in answers] == ["NOT_ENOUGH_REPLICAS"]


@pytest.mark.shows("all brokers but one killed under load")
def test_all_brokers_but_one_down(load: Load) -> None:
    """Without most of the brokers events wait; delivery goes on when they are back."""
    cluster = load.cluster
    with load.running(timeout=2.0):
        leader = cluster.leader(load.topic)
        for other in cluster.brokers.keys() - {leader}:
            cluster.brokers[other].kill()
        load.is_stuck()
        cluster.heal()


@pytest.mark.shows("all brokers killed under load")
def test_all_brokers_down(load: Load) -> None:
    """If all brokers are killed at once, events wait, and none that was acknowledged is lost."""
    with load.running(timeout=2.0):
        load.cluster.kill()
        load.is_stuck()
        load.cluster.heal()


# --- Partitions that move ----------------------------------------------------------------------


@pytest.mark.shows("partitions reassigned under load")
def test_reassigned_partitions_cost_nothing(load: Load) -> None:
    """All partitions get other leaders and replicas: no event is lost, doubled or reordered."""
    cluster = load.cluster
    before, after = ([[1, 2], [2, 3], [3, 1]], [[2, 3], [3, 1], [1, 2]])
    load.topic = make_topic(cluster.servers, replicas=before)
    with load.running(timeout=SECONDS):
        for wanted in (after, before):
            reassign(cluster, load.topic, wanted)
            wait_until(partial(is_placed, cluster, load.topic, wanted), SECONDS, "they are moved")
            load.goes_on()
    assert load.repeats == 0


def reassign(cluster: KafkaCluster, topic: str, replicas: Sequence[Sequence[int]]) -> None:
    """Move partitions to other brokers, the first of which leads."""
    brokers = [",".join(map(str, each)) for each in replicas]
    run_java("Reassign", cluster.servers, topic, *brokers)


def is_placed(cluster: KafkaCluster, topic: str, replicas: Sequence[Sequence[int]]) -> bool:
    """Tell whether each partition has these replicas, the first of which leads."""
    return all(
        cluster.leader(topic, place) == wanted[0] and cluster.in_sync(topic, place) == {*wanted}
        for place, wanted in enumerate(replicas)
    )
