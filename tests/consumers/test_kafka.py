"""KafkaConsumer on Apache Kafka: the contract, the partitions of a group, and what is received.

Messages are produced by Kafka's own client, and by the official SDK of CloudEvents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime
from time import monotonic
from typing import Any
from uuid import uuid4

import pytest
from cloudevents.core.bindings import kafka as sdk
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent as SDKEvent
from confluent_kafka import TopicPartition

from django_broadcaster.backends import KafkaBackend, MessageBackend
from django_broadcaster.backends.bindings import KAFKA
from django_broadcaster.consumers import Consumer, Delivery, KafkaConsumer
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import BackendConfigurationError, BackendUnavailable
from django_broadcaster.testing import ConsumerContract, ProducedMessage
from tests.support.kafka_events import (
    first_of_each,
    ids,
    numbered,
    publish,
    publish_in_transactions,
)
from tests.support.kafka_server import (
    KafkaServer,
    committed_offsets,
    make_topic,
    members,
    produce,
    proxied_kafka,
    shared_servers,
)
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

WAIT = 30.0  # seconds, at the most

MakeConsumer = Callable[..., KafkaConsumer]


@pytest.fixture(scope="module")
def proxied(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[KafkaServer, TcpProxy]]:
    """A broker, and the proxy that its clients come through."""
    with proxied_kafka(tmp_path_factory.mktemp("kafka")) as pair:
        yield pair


class TestContract(ConsumerContract):
    """A topic of one partition for each test, through a proxy."""

    binding = KAFKA
    wrong_options = {
        "topics": "a b",
        "group": "",
        "group_instance_id": "",
        "start": "earliest",
        "session_timeout": 0,
        "timeout": 0,
        "bootstrap_servers": [],
        "username": 5,
        "tls": "yes",
        "config": {"auto.offset.reset": "error"},
    }
    secret_options = {"password": "hush-hush"}

    @pytest.fixture(autouse=True)
    def _server(self, proxied: tuple[KafkaServer, TcpProxy]) -> None:
        self.server, self.proxy = proxied
        self.servers = f"127.0.0.1:{self.proxy.port}"
        self.topic = make_topic(self.server.servers)

    def make_consumer(self, **options: Any) -> Consumer:
        where = {"bootstrap_servers": self.servers, "topics": self.topic, "group": self.topic}
        return KafkaConsumer(**{**where, "session_timeout": 2, "timeout": 3, **options})

    def make_backend(self, **options: Any) -> MessageBackend:
        return KafkaBackend(bootstrap_servers=self.server.servers, topic=self.topic, **options)

    def produce(self, messages: Sequence[ProducedMessage]) -> None:
        records = []
        for message in messages:
            headers = {name: text.encode() for name, text in message.headers.items()}
            if message.content_type:
                headers["content-type"] = message.content_type.encode()
            records.append((message.key.encode(), message.body, headers))
        produce(self.server.servers, self.topic, records)

    def break_broker(self) -> AbstractContextManager[object]:
        return self.proxy.away()


# --- One group, several receivers --------------------------------------------------------------


@pytest.fixture
def servers() -> str:
    """The address of the shared broker."""
    return shared_servers()


@pytest.fixture
def topic(servers: str) -> str:
    """A topic of four partitions."""
    return make_topic(servers, 4)


@pytest.fixture
def make(servers: str, topic: str) -> Iterator[MakeConsumer]:
    """Make consumers of one group, which are closed at the end."""
    with ExitStack() as made:

        def make(**options: Any) -> KafkaConsumer:
            defaults = {
                "alias": "shop",
                "bootstrap_servers": servers,
                "topics": topic,
                "group": topic,
                "session_timeout": 2.0,
                "timeout": 4.0,
            }
            consumer = KafkaConsumer(**{**defaults, **options})
            made.callback(consumer.close)
            return consumer

        yield make


def wait_for_partitions(*consumers: KafkaConsumer) -> list[Delivery]:
    """Call all consumers until each has a partition; return what they received."""
    found: list[Delivery] = []

    def is_shared() -> bool:
        for each in consumers:
            found.extend(each.receive(100, 0.1))
        return all(each._partitions for each in consumers)

    wait_until(is_shared, WAIT, "each receiver has a partition")
    return found


def test_open_waits_for_partitions(make: MakeConsumer, servers: str, topic: str) -> None:
    """An open receiver has its partitions, so that a worker that drains finds what waits."""
    publish(servers, topic, numbered(4, 0, 1))
    consumer = make()
    consumer.open()
    assert {number for _, number in consumer._partitions} == {0, 1, 2, 3}
    consumer.acknowledge(read(consumer, 4))
    assert consumer.lag() == 0


def test_two_receivers_share_the_keys(make: MakeConsumer, servers: str, topic: str) -> None:
    """Each key goes to one of them, in order."""
    one, other = make(), make()
    one.open()
    other.open()
    wait_for_partitions(one, other)
    names = numbered(20, 0, 10)
    publish(servers, topic, names)
    found: dict[KafkaConsumer, list[str]] = {one: [], other: []}

    def is_complete() -> bool:
        for consumer, received in found.items():
            deliveries = consumer.receive(30, 0.1)
            received += ids(deliveries)
            consumer.acknowledge(deliveries)
        return sum(map(len, found.values())) >= len(names)

    wait_until(is_complete, WAIT, "everything is received")
    keys = [first_of_each(received) for received in found.values()]
    assert not keys[0].keys() & keys[1].keys()
    assert min(map(len, keys)) > 0
    assert first_of_each(names) == {**keys[0], **keys[1]}


def test_partitions_that_stay_are_not_interrupted_by_a_rebalance(make: MakeConsumer) -> None:
    """A receiver that joins takes some of them; the others are not given up for a moment."""
    one, other = make(), make()
    one.open()
    wait_for_partitions(one)
    before = dict(one._partitions)
    other.open()
    wait_for_partitions(one, other)
    after = dict(one._partitions)
    assert 0 < len(after) < len(before)
    assert all(before[key] is partition for key, partition in after.items())


def test_partition_that_moves_is_read_from_what_was_acknowledged(
    make: MakeConsumer, servers: str, topic: str
) -> None:
    """The next receiver gets what the former had not acknowledged; a late acknowledgement is
    left out.
    """
    names = numbered(20, 0, 10)
    publish(servers, topic, names)
    one, other = make(), make()
    one.open()
    held: list[Delivery] = []

    def holds_all() -> bool:
        held.extend(one.receive(100, 0.1))
        return len(held) >= len(names)

    wait_until(holds_all, WAIT, "everything is received")
    one.acknowledge(held[:50])
    other.open()
    taken = wait_for_partitions(one, other)
    moved = {partition for _, partition in other._partitions}
    assert moved
    one.acknowledge(held)

    def has_all() -> bool:
        taken.extend(other.receive(100, 0.1))
        return {*ids(taken)} >= {*again}

    again = [
        each.event.id
        for each in held[50:]
        if each.event is not None and each.receipt.partition.number in moved
    ]
    wait_until(has_all, WAIT, "the next receiver has the rest")
    assert first_of_each(ids(taken)) == first_of_each(again)
    offsets = committed_offsets(servers, topic, topic)
    ends = {each.receipt.partition.number: each.receipt.offset + 1 for each in held}
    kept = {number: end for number, end in ends.items() if number not in moved}
    assert {number: offsets[number] for number in kept} == kept
    acknowledged = {each.receipt.partition.number: each.receipt.offset + 1 for each in held[:50]}
    assert all(offsets.get(number, 0) <= acknowledged.get(number, 0) for number in moved)


def test_client_that_was_given_up_takes_no_partition_away(
    make: MakeConsumer, servers: str, topic: str
) -> None:
    """A client that hung while it was closed reports its partitions after the next one has them."""
    consumer = make()
    consumer.open()
    wait_for_partitions(consumer)
    former = consumer._client
    consumer.open()
    wait_for_partitions(consumer)
    places = [TopicPartition(*key) for key in consumer._partitions]
    consumer._revoked(former, places)
    consumer._lost(former, places)
    publish(servers, topic, numbered(4, 0, 2))
    received: list[str] = []

    def has_all() -> bool:
        received.extend(ids(consumer.receive(100, 0.1)))
        return len(received) == 8

    wait_until(has_all, WAIT, "everything is received")


def keep(consumer: KafkaConsumer, count: int) -> None:
    """Fetch records, and leave them for a later call of `receive`."""

    def has_kept() -> bool:
        message = consumer._client.poll(0.1)
        consumer._early += [message] if message is not None else []
        return len(consumer._early) >= count

    wait_until(has_kept, WAIT, "records are kept")


def test_record_of_a_former_assignment_is_left_out(
    make: MakeConsumer, servers: str, topic: str
) -> None:
    """What was taken while the receiver waited would be ahead of what is read again."""
    publish(servers, topic, numbered(20, 0, 10))
    one, other = make(), make()
    one.open()
    for _ in range(3):
        assert one.receive(1, WAIT)

    keep(one, 190)
    other.open()

    def is_shared() -> bool:
        one.extend([])
        return len(one._partitions) < 4 and bool(other.receive(1, 0.1))

    wait_until(is_shared, WAIT, "the other has a partition")
    other.close()

    def has_all_again() -> bool:
        one.extend([])
        return len(one._partitions) == 4

    wait_until(has_all_again, WAIT, "it has all partitions again")
    received: list[Delivery] = []

    def has_all() -> bool:
        received.extend(one.receive(100, 0.1))
        return len({*ids(received)}) >= 197

    wait_until(has_all, WAIT, "everything is received")
    offsets: dict[int, list[int]] = {}
    for each in received:
        offsets.setdefault(each.receipt.partition.number, []).append(each.receipt.offset)
    assert all(found == sorted(found) for found in offsets.values())


class RebalancedWhileConsuming:
    """A real client. Within `consume`, all partitions are revoked and assigned once more."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer
        self._client = consumer._client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def consume(self, *args: Any) -> list[Any]:
        places = [TopicPartition(*key) for key in self._consumer._partitions]
        self._consumer._revoked(self, places)
        self._consumer._assigned(self, places)
        return []


def test_kept_records_do_not_outlive_the_assignment_of_their_partition(
    make: MakeConsumer, servers: str, topic: str
) -> None:
    """Neither those that were kept, nor the first one of the call: they are read again."""
    publish(servers, topic, numbered(4, 0, 5))
    consumer = make()
    consumer.open()

    keep(consumer, 20)
    consumer._client = RebalancedWhileConsuming(consumer)
    assert consumer._take(100, 0) == []
    assert all(each.next is None for each in consumer._partitions.values())


@pytest.mark.slow
def test_receiver_with_many_kept_records_takes_part_in_rebalances(
    make: MakeConsumer, servers: str, topic: str
) -> None:
    """Its calls reach Kafka although it has enough to return."""
    publish(servers, topic, numbered(20, 0, 40))
    one, other = make(), make()
    one.open()

    keep(one, 800)
    other.open()

    def is_shared() -> bool:
        assert len(one._early) > 1, "the records that were kept are used up"
        return len(one.receive(1, 0)) == 1 and bool(other.receive(1, 0.1))

    wait_until(is_shared, WAIT, "the other has a partition")


def test_rebalances_under_load_lose_nothing(make: MakeConsumer, servers: str, topic: str) -> None:
    """Receivers come and go while messages come; all arrive, first arrivals in order."""
    receivers = [make(timeout=10.0)]
    receivers[0].open()
    sent: list[str] = []
    received: list[str] = []

    def receive() -> None:
        for each in receivers:
            deliveries = each.receive(40, 0.05)
            received.extend(ids(deliveries))
            each.acknowledge(deliveries)

    for step in range(6):
        batch = numbered(20, step * 10, step * 10 + 10)
        publish(servers, topic, batch)
        sent += batch
        if step % 2 == 0:
            receivers.append(make(timeout=10.0))
            receivers[-1].open()
        else:
            receivers.pop(0).close()
        for _ in range(5):
            receive()

    def has_all() -> bool:
        receive()
        return {*received} == {*sent}

    wait_until(has_all, WAIT, "everything is received")
    assert first_of_each(received) == first_of_each(sent)


def test_acknowledgements_are_committed_up_to_the_first_gap(
    make: MakeConsumer, servers: str
) -> None:
    """An offset is committed only when all before it are acknowledged."""
    single = make_topic(servers)
    publish(servers, single, numbered(1, 0, 10))
    consumer = make(topics=single, group=single)
    consumer.open()
    held: list[Delivery] = []

    def holds_all() -> bool:
        held.extend(consumer.receive(100, 0.1))
        return len(held) >= 10

    wait_until(holds_all, WAIT, "everything is received")
    committed = []
    for part in (held[:3], held[5:], held[3:4], held[4:5]):
        consumer.acknowledge(part)
        committed.append(committed_offsets(servers, single, single)[0])
    assert committed == [3, 3, 4, 10]


def test_static_member_that_restarts_keeps_its_partitions(
    make: MakeConsumer, servers: str, topic: str
) -> None:
    """With a name of its own a receiver is back without a rebalance: the others keep theirs."""
    one = make(group_instance_id="one", session_timeout=20)
    other = make(group_instance_id="other", session_timeout=20)
    one.open()
    other.open()
    wait_for_partitions(one, other)
    before, kept = {*one._partitions}, dict(other._partitions)
    owned = members(servers, topic)
    one.close()
    assert members(servers, topic) == owned
    assert {*owned} == {"one", "other"}
    again = make(group_instance_id="one", session_timeout=20)
    again.open()
    wait_for_partitions(again, other)
    assert {*again._partitions} == before
    assert other._partitions == kept


def test_two_receivers_with_one_name_are_an_error(make: MakeConsumer) -> None:
    """The former one is told, and gives up its partitions."""
    one, other = make(group_instance_id="one"), make(group_instance_id="one")
    one.open()
    wait_for_partitions(one)
    other.open()

    def is_fenced() -> bool:
        other.receive(1, 0.1)
        try:
            one.receive(1, 0.1)
        except BackendUnavailable as error:
            return "group.instance.id" in str(error)
        return False

    wait_until(is_fenced, WAIT, "the former receiver is fenced")


def test_receiver_that_waits_for_its_database_stays_in_the_group(
    make: MakeConsumer, servers: str, topic: str
) -> None:
    """With `extend` it keeps its partitions for longer than `max.poll.interval.ms`."""
    publish(servers, topic, numbered(4, 0, 5))
    consumer = make(session_timeout=1.0, config={"max.poll.interval.ms": 1000})
    consumer.open()
    held = wait_for_partitions(consumer)
    partitions = dict(consumer._partitions)
    began = monotonic()

    def has_waited() -> bool:
        consumer.extend(held)
        return monotonic() - began > 2

    wait_until(has_waited, WAIT, "two seconds are over")
    assert consumer._partitions == partitions

    def has_all() -> bool:
        held.extend(consumer.receive(100, 0.1))
        return len(held) >= 20

    wait_until(has_all, WAIT, "everything is received")
    consumer.acknowledge(held)
    assert first_of_each(ids(held)) == first_of_each(numbered(4, 0, 5))
    assert len(held) == 20
    assert consumer.lag() == 0


# --- What is read ------------------------------------------------------------------------------


def read(consumer: KafkaConsumer, count: int) -> list[Delivery]:
    """Return that many deliveries."""
    found: list[Delivery] = []

    def has_all() -> bool:
        found.extend(consumer.receive(100, 0.1))
        return len(found) >= count

    wait_until(has_all, WAIT, f"{count} messages")
    return found


def test_topics_that_match_a_pattern_are_read(make: MakeConsumer, servers: str) -> None:
    """Also one that is created later."""
    prefix = f"orders-{uuid4()}"
    first, later = f"{prefix}.placed", f"{prefix}.paid"
    make_topic(servers, name=first)
    make_topic(servers, name=f"un{first}")
    for topic in (first, f"un{first}"):
        publish(servers, topic, [f"{topic}-1"])
    consumer = make(topics=f"^{prefix}\\..*", config={"topic.metadata.refresh.interval.ms": 500})
    consumer.open()
    found = read(consumer, 1)
    make_topic(servers, name=later)
    publish(servers, later, [f"{later}-1"])
    found += read(consumer, 1)
    assert [each.message.origin for each in found] == [first, later]


def test_group_that_moves_to_other_topics_gives_the_old_ones_up(
    make: MakeConsumer, servers: str, topic: str
) -> None:
    """While receivers are replaced, each reads its own topics; nothing is lost or doubled."""
    prefix = f"moved-{uuid4()}"
    later = make_topic(servers, 2, name=f"{prefix}.a")
    old, new = numbered(4, 0, 5), numbered(4, 5, 10)
    publish(servers, topic, old)
    publish(servers, later, new)
    former = make()
    former.open()
    found = read(former, 20)
    former.acknowledge(found)
    publish(servers, topic, ["left-1"])
    moved = make(topics=f"^{prefix}\\..*")
    moved.open()
    received: list[Delivery] = []
    left: list[Delivery] = []

    def has_all() -> bool:
        left.extend(former.receive(100, 0.1))
        received.extend(moved.receive(100, 0.1))
        return len(received) >= 20 and len(left) >= 1

    wait_until(has_all, WAIT, "each has received its own")
    assert first_of_each(ids(received)) == first_of_each(new)
    assert (len(received), ids(left)) == (20, ["left-1"])
    assert {each for each, _ in moved._partitions} == {later}
    moved.acknowledge(received)
    former.close()
    wait_until(lambda: not moved.receive(100, 0.1) and moved.lag() == 0, WAIT, "the lag is 0")
    moved.close()
    back = make(topics=[topic, later])
    back.open()
    assert ids(read(back, 1)) == ["left-1"]


@pytest.mark.parametrize("start", ["all", "new"])
def test_a_new_group_begins_where_it_is_told(
    make: MakeConsumer, servers: str, topic: str, start: str
) -> None:
    """With "new" it begins at the end, and what comes while it is away is received later."""
    publish(servers, topic, numbered(4, 0, 5))
    consumer = make(start=start)

    def has_begun() -> bool:
        assert consumer.receive(1, 0.1) == []
        return len(committed_offsets(servers, topic, topic)) == 4

    if start == "new":
        consumer.open()
        wait_until(has_begun, WAIT, "the group has a beginning")
        consumer.close()
    publish(servers, topic, numbered(4, 5, 10))
    consumer.open()
    names = numbered(4, 5, 10) if start == "new" else numbered(4, 0, 10)
    found = read(consumer, len(names))
    assert first_of_each(ids(found)) == first_of_each(names)


@pytest.mark.parametrize("write", [sdk.to_structured_event, sdk.to_binary_event])
def test_events_of_the_official_sdk_are_read(
    make: MakeConsumer, servers: str, topic: str, write: Callable[..., sdk.KafkaMessage]
) -> None:
    """The SDK's producer binding writes records, in both content modes, that are read as events."""
    event = SDKEvent(
        {
            "id": "A-1",
            "source": "/shop",
            "type": "order.placed",
            "specversion": "1.0",
            "subject": "größer",
            "datacontenttype": "application/json",
            "partitionkey": "order-7",
            "time": datetime(2024, 2, 29, 12, tzinfo=UTC),
        },
        {"total": 1},
    )
    message = write(event, JSONFormat())
    key = message.key.encode() if isinstance(message.key, str) else message.key
    produce(servers, topic, [(key, message.value, message.headers)])
    consumer = make()
    consumer.open()
    (delivery,) = read(consumer, 1)
    assert delivery.problem == ""
    assert delivery.event is not None
    assert delivery.event.to_dict() == {
        "specversion": "1.0",
        "id": "A-1",
        "source": "/shop",
        "type": "order.placed",
        "subject": "größer",
        "datacontenttype": "application/json",
        "partitionkey": "order-7",
        "time": "2024-02-29T12:00:00Z",
        "data": {"total": 1},
    }
    assert delivery.message.key == (key or b"").decode()


BINARY = {
    "ce_specversion": b"1.0",
    "ce_id": b"1",
    "ce_source": b"/shop",
    "ce_type": b"order.deleted",
}


@pytest.mark.parametrize(
    ("key", "value", "headers", "problem"),
    [
        (b"order-1", None, BINARY, ""),
        (b"order-1", None, {}, "InvalidEvent"),
        (b"\xff\xfe", b"{}", {}, "InvalidEvent"),
        (None, b"\xff\x00", {"a": b"\xff"}, "InvalidEvent"),
        (b"\0", b"", {**BINARY, "ce_id": b"\xff"}, "InvalidEvent"),
    ],
    ids=["tombstone", "tombstone without an event", "binary key", "binary", "binary header"],
)
def test_any_record_is_a_delivery(
    make: MakeConsumer,
    servers: str,
    topic: str,
    key: bytes | None,
    value: bytes | None,
    headers: dict[str, bytes],
    problem: str,
) -> None:
    """What holds no event has a problem, and does not stop what comes after it."""
    last = CloudEvent("order.placed", "/shop", id="last")
    content = {"content-type": b"application/cloudevents+json"}
    produce(servers, topic, [(key, value, headers)])
    consumer = make()
    consumer.open()
    (first,) = read(consumer, 1)
    produce(servers, topic, [(key, last.to_json(), content)])
    (second,) = read(consumer, 1)
    assert first.message.body == (value or b"")
    assert first.problem.partition(":")[0] == problem
    assert ids([first, second]) == (["last"] if problem else ["1", "last"])
    if first.event is not None:
        assert not first.event.has_data
    expected = {None: "", b"\xff\xfe": "fffe"}.get(key, (key or b"").decode(errors="replace"))
    assert first.message.key == expected
    consumer.acknowledge([first, second])
    assert consumer.lag() == 0


def test_only_committed_transactions_are_read(make: MakeConsumer, servers: str, topic: str) -> None:
    """Records of a transaction that was aborted are never received, and are not in the lag."""
    publish_in_transactions(servers, topic, {"a": False, "b": True})
    consumer = make()
    consumer.open()
    found = read(consumer, 1)
    assert ids(found) == ["b"]
    consumer.acknowledge(found)
    wait_until(lambda: not consumer.receive(10, 0.1) and consumer.lag() == 0, WAIT, "the lag is 0")


# --- Options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("topics", "^(", "regular expression"),
        ("topics", ["a", "b c"], "letters"),
        ("topics", [], "name of a topic"),
        ("start", "latest", "'new'"),
        ("config", {"group.id": "a"}, "'group'"),
        ("config", {"enable.auto.commit": True}, "rows"),
        ("config", {"group.protocol": "consumer"}, "cooperative-sticky"),
        ("config", {"session.timeout.ms": 1}, "'session_timeout'"),
        ("config", {"bootstrap.servers": "a:1"}, "'bootstrap_servers'"),
    ],
)
def test_wrong_option_is_named(option: str, value: Any, said: str) -> None:
    """A wrong option, or one that contradicts a promise, is an error that names it."""
    options = {"topics": "events", "group": "shop", option: value}
    with pytest.raises(BackendConfigurationError) as caught:
        KafkaConsumer(alias="shop", **options)
    assert f"OUTBOX_CONSUMERS['shop']['OPTIONS'][{option!r}]" in str(caught.value)
    assert said in str(caught.value)


def test_what_librdkafka_does_not_take_is_named(make: MakeConsumer) -> None:
    """A wrong setting of librdkafka's says what is wrong."""
    consumer = make(config={"no.such.key": 1})
    with pytest.raises(BackendConfigurationError, match=r"\['config'\].*no\.such\.key"):
        consumer.open()
