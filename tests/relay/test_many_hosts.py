"""Two hosts, one PostgreSQL and three Kafka brokers: the network between them drops packets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from django.core.management import call_command
from django.db.models import QuerySet

from django_broadcaster.models import (
    InboxEvent,
    OutboxEvent,
    OutboxPartition,
    OutboxReceiver,
    OutboxRelay,
)
from tests.app.models import Order
from tests.support.events import count, first_arrivals
from tests.support.hosts import Direction, Host, Network, host, networks
from tests.support.kafka_cluster import KafkaCluster, kafka_cluster
from tests.support.kafka_server import READ_SECONDS, make_topic, records
from tests.support.load import Load, writing
from tests.support.own_servers import OwnDatabase, as_alias, own_instance, running, service_like
from tests.support.waiting import wait_until
from tests.support.workers import Worker, Workers

pytestmark = [pytest.mark.chaos, pytest.mark.long, pytest.mark.timeout(240)]

ALIAS = "far"
"""The database, by its address in the network of databases."""

BATCH = 20
LEASE = 5
TIMEOUT = 4.0
"""Seconds after which a relay finds the brokers unavailable."""

KEYS = "abcdefghijklmnoq"
"""Without p: the event p1 would end the process that handles it."""
TOPIC_PARTITIONS = 6
TAKE_OVER = "the other host to own everything"
SECONDS = 60.0
"""The longest that a step may take, on a busy machine."""


@dataclass
class Site:
    """The servers, and the networks in which the hosts reach them."""

    server: OwnDatabase
    cluster: KafkaCluster
    database: Network
    brokers: Network
    hosts: list[Host]

    def reached_by(self, what: str) -> list[Network]:
        """Return the networks of "database", "brokers" or "both"."""
        return {
            "database": [self.database],
            "brokers": [self.brokers],
            "both": [self.database, self.brokers],
        }[what]


@pytest.fixture(scope="module")
def running_site(
    django_db_setup: None,
    django_db_blocker: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """Servers and two hosts, for all tests of this module."""
    with ExitStack() as stack:
        stack.enter_context(django_db_blocker.unblock())  # type: ignore[attr-defined]
        database, brokers = stack.enter_context(networks("data", "kafka"))
        service = service_like(
            "postgres", serve=f"-c listen_addresses=127.0.0.1,{database.address}"
        )
        server = stack.enter_context(running(stack.enter_context(own_instance(service))))
        server.listen_to_all()
        stack.enter_context(as_alias(ALIAS, {**server.place, "HOST": database.address}))
        call_command("migrate", Order._meta.app_label, database=ALIAS, verbosity=0)
        folder = tmp_path_factory.mktemp("kafka")
        cluster = stack.enter_context(kafka_cluster(folder, host=brokers.address))
        hosts = [stack.enter_context(host(place, [database, brokers])) for place in (11, 12)]
        yield Site(server, cluster, database, brokers, hosts)


@pytest.fixture
def site(running_site: Site, committing: None) -> Site:
    """Servers and two hosts; the outbox is empty."""
    for model in (OutboxEvent, OutboxPartition, OutboxRelay, OutboxReceiver, InboxEvent, Order):
        model._base_manager.using(ALIAS).all()._raw_delete(ALIAS)
    return running_site


class Fleet:
    """A relay and a receiver on each host. The receivers get back what the relays send.

    `topics` has the topic to which each host's relay sends.
    """

    def __init__(self, site: Site, workers: Workers, *topics: str) -> None:
        self._site = site
        self._workers = workers
        self.topics = topics
        self.relays: list[Worker] = []
        self.receivers: list[Worker] = []

    def start(self) -> None:
        """Start all; the first host's alone at first, so that its receiver is known to read."""
        for number, (on, topic) in enumerate(zip(self._site.hosts, self.topics, strict=True)):
            settings = self._settings(topic)
            start = partial(self._workers.start, ALIAS, prefix=on.prefix, **settings)
            options = ("--batch-size", str(BATCH), "--exclude-consumer", "back")
            self.relays.append(start(*options))
            self.receivers.append(start("--batch-size", str(BATCH), command="outbox_consumer"))
            self.wait(partial(self._are_up, number + 1), "the processes of a host to join")
        self.wait(lambda: self.has_work(0) and self.has_work(1), "each relay to own keys")

    def _settings(self, topic: str) -> dict[str, Any]:
        servers = self._site.cluster.servers
        backends = "django_broadcaster.backends"
        sent = {"bootstrap_servers": servers, "topic": topic, "timeout": TIMEOUT}
        received = {
            "bootstrap_servers": servers,
            "topics": list(dict.fromkeys(self.topics)),
            "group": self.topics[0],
            "session_timeout": 3.0,
        }
        consumer = "django_broadcaster.consumers.KafkaConsumer"
        return {
            "OUTBOX_PUBLISHERS": {
                "default": {"BACKEND": f"{backends}.KafkaBackend", "OPTIONS": sent},
                "handlers": {"BACKEND": "tests.support.backends.HandlersBackend"},
            },
            "OUTBOX_CONSUMERS": {
                "back": {"CONSUMER": consumer, "OPTIONS": received, "DELIVER_TO": "handlers"}
            },
            "OUTBOX_LEASE_SECONDS": LEASE,
            "OUTBOX_CIRCUIT": {"maximum": 0.5},
        }

    def _are_up(self, number: int) -> bool:
        receivers = OutboxReceiver.objects.using(ALIAS).count()
        return self.all_share() and receivers == number

    def all_share(self) -> bool:
        """Whether each relay that was started owns partitions, and all are owned."""
        return self.owners() == {each.pid for each in self.relays}

    def owners(self) -> set[int | None]:
        """Return the processes that own partitions of the brokers' events, None if one is free."""
        rows = OutboxPartition.objects.using(ALIAS).filter(backend="default")
        names = rows.values_list("relay__name", flat=True).distinct()
        return {int(name.rpartition(":")[2]) if name else None for name in names}

    def interruptions(self) -> int:
        """Return how often a relay lost its lease or the brokers, each time with a batch at most.

        That is once for a cut, and more often on a machine that is so busy that relays stall.
        """
        words = ("Lease lost: the lease", "Backend 'default' is unavailable")
        return sum(relay.output.count(word) for relay in self.relays for word in words)

    def has_work(self, number: int) -> bool:
        """Whether a relay owns a partition in which there are events."""
        owned = OutboxPartition.objects.using(ALIAS).filter(relay__in=self._relay_rows(number))
        events = OutboxEvent.objects.using(ALIAS).filter(publisher_backend="default")
        return bool(events.filter(partition__in=owned.values("number")).exists())

    def finds_the_brokers_away(self, number: int) -> bool:
        """Whether a relay is known to wait for the brokers."""
        return bool(self._relay_rows(number).filter(circuit_open_since__isnull=False).exists())

    def _relay_rows(self, number: int) -> QuerySet[OutboxRelay]:
        name = f":{self.relays[number].pid}"
        rows = OutboxRelay.objects.using(ALIAS)
        return rows.filter(backend="default", name__endswith=name)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition while all processes run; shows their logs when it does not come."""

        def is_met() -> bool:
            assert all(each.runs for each in self._processes), f"a process ended\n{self._logs}"
            return condition()

        try:
            wait_until(is_met, SECONDS, what)
        except pytest.fail.Exception as failure:
            pytest.fail(f"{failure}\n{self._logs}")

    def goes_on(self, events: int = 200) -> None:
        """Wait until that many more events are delivered, by whichever host."""
        enough = count("published", ALIAS) + events
        self.wait(lambda: count("published", ALIAS) >= enough, f"{events} more deliveries")

    def settle(self, load: Load) -> None:
        """Wait until every event was sent, received and handled; end everything."""
        rows = OutboxEvent.objects.using(ALIAS)
        ours, back = (rows.filter(publisher_backend=alias) for alias in ("default", "handlers"))
        load.stop()
        unsettled = rows.exclude(status="published")
        self.wait(
            lambda: not unsettled.exists() and back.count() == ours.count(), "every event's end"
        )
        for each in self._processes:
            each.stop()
        assert {each.end() for each in self._processes} == {0}, self._logs

    @property
    def _processes(self) -> list[Worker]:
        return [*self.relays, *self.receivers]

    @property
    def _logs(self) -> str:
        return "\n".join(f"--- {each.status}: {each.output[-3000:]}" for each in self._processes)


def sent(status: str = "published") -> set[str]:
    """Return the names of the events for the brokers that have a status."""
    rows = OutboxEvent.objects.using(ALIAS).filter(publisher_backend="default", status=status)
    return set(rows.values_list("subject", flat=True))


def handled() -> list[str]:
    """Return the names of the events that handlers wrote down, in their order."""
    return list(Order.objects.using(ALIAS).order_by("pk").values_list("number", flat=True))


@pytest.mark.parametrize(
    ("what", "direction"),
    [
        ("database", "both"),
        ("database", "requests"),
        ("database", "replies"),
        ("brokers", "both"),
        ("brokers", "requests"),
        ("brokers", "replies"),
        ("both", "both"),
    ],
)
def test_a_host_that_is_cut_off_goes_on_by_itself(
    site: Site, workers: Workers, what: str, direction: Direction
) -> None:
    """All arrives in order; repeated are at most the events of the batch that was in flight."""
    topic = make_topic(site.cluster.servers, TOPIC_PARTITIONS)
    fleet = Fleet(site, workers, topic, topic)
    with writing(ALIAS, KEYS, pause=0.05) as load:
        fleet.start()
        fleet.goes_on()
        settled = sent()
        with site.hosts[0].cut_off(*site.reached_by(what), direction=direction):
            if what == "brokers":
                fleet.wait(lambda: fleet.finds_the_brokers_away(0), "the outage of a host")
            else:
                fleet.wait(lambda: fleet.owners() == {fleet.relays[1].pid}, TAKE_OVER)
            fleet.goes_on()
        fleet.wait(
            lambda: fleet.all_share() and not fleet.finds_the_brokers_away(0),
            "the host that is back to deliver",
        )
        fleet.goes_on()
        fleet.settle(load)
    arrived = names_in(site, topic)
    assert set(load.committed) == set(arrived) == sent()
    assert first_arrivals(arrived) == first_arrivals(load.committed)
    repeated = {name for name, times in Counter(arrived).items() if times > 1}
    assert len(arrived) - len(load.committed) <= BATCH * fleet.interruptions()
    assert not repeated & settled
    assert Counter(handled()) == Counter(load.committed)
    assert first_arrivals(handled()) == first_arrivals(load.committed)


@pytest.mark.parametrize("direction", ["both", "requests", "replies"])
def test_a_host_without_the_database_sends_nothing_after_its_lease(
    site: Site, workers: Workers, direction: Direction
) -> None:
    """The brokers, which the host reaches, get nothing of it from the time the other takes over."""
    mine, other = (make_topic(site.cluster.servers) for _ in range(2))
    fleet = Fleet(site, workers, mine, other)
    with writing(ALIAS, KEYS, pause=0.05) as load:
        fleet.start()
        fleet.goes_on()
        with site.hosts[0].cut_off(site.database, direction=direction):
            fleet.wait(lambda: fleet.owners() == {fleet.relays[1].pid}, TAKE_OVER)
            at_its_end = end_of(site, mine)
            assert at_its_end > 0
            fleet.goes_on(1000)
            assert end_of(site, mine) == at_its_end
        fleet.wait(
            lambda: fleet.all_share() and end_of(site, mine) > at_its_end,
            "the host that is back to deliver",
        )
        fleet.settle(load)
    arrived = names_in(site, mine) + names_in(site, other)
    assert set(arrived) == set(load.committed)
    assert len(arrived) - len(load.committed) <= BATCH * fleet.interruptions()


def names_in(site: Site, topic: str) -> list[str]:
    """Return the names of the events in a topic, partition by partition."""
    found = records(site.cluster.servers, topic)
    return [json.loads(record.value() or b"")["subject"] for record in found]


def end_of(site: Site, topic: str) -> int:
    """Return how many records a topic of one partition has."""
    consumer = Consumer({"bootstrap.servers": site.cluster.servers, "group.id": "reader"})
    try:
        offsets = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=READ_SECONDS)
    finally:
        consumer.close()
    return int(offsets[1])
