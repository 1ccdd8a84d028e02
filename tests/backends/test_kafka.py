"""The Kafka backend on a real broker: what is in the topic, and what may be set."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes
from uuid import uuid4

import pytest
from cloudevents.core.bindings import kafka as sdk
from cloudevents.core.formats.json import JSONFormat
from confluent_kafka import Message as KafkaRecord
from django.db import transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from django_broadcaster.backends import KafkaBackend, Message, MessageBackend
from django_broadcaster.backends.bindings import canonical
from django_broadcaster.backends.names import escape_topic
from django_broadcaster.events import JSON_NULL, CloudEvent
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    Held,
    InvalidPublisherConfig,
    Rejected,
    TransientError,
)
from django_broadcaster.publishers import publisher
from django_broadcaster.relay.loop import DeliveryLoop
from django_broadcaster.testing import BackendContract, make_message
from tests.events.strategies import EVENTS as ANY_EVENT
from tests.relay.conftest import drain
from tests.support.batches import numbers
from tests.support.events import first_arrivals, publish, row, statuses
from tests.support.kafka_server import (
    KafkaServer,
    headers_of,
    make_topic,
    proxied_kafka,
    records,
    shared_servers,
)
from tests.support.kafka_waves import waves as count_waves
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pytest_django import Settings

MakeBackend = Callable[..., KafkaBackend]


@pytest.fixture(scope="module")
def servers() -> str:
    """The address of the shared broker."""
    return shared_servers()


@pytest.fixture
def topic(servers: str) -> str:
    """A topic of one partition."""
    return make_topic(servers)


@pytest.fixture
def make(servers: str) -> Iterator[MakeBackend]:
    """Make backends, which are closed at the end."""
    with ExitStack() as made:

        def make(**options: Any) -> KafkaBackend:
            where = {"alias": "default", "bootstrap_servers": servers}
            backend = KafkaBackend(**{**where, **options})
            made.callback(backend.close)
            return backend

        yield make


def ids(found: Sequence[KafkaRecord]) -> list[str]:
    """The event ids of records in structured mode."""
    return [json.loads(record.value() or b"{}")["id"] for record in found]


# --- The contract ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proxied(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[KafkaServer, TcpProxy]]:
    """A broker, and the proxy that its clients come through."""
    config = "log.cleaner.backoff.ms=100"
    with proxied_kafka(tmp_path_factory.mktemp("kafka"), config) as pair:
        yield pair


@pytest.fixture
def server(proxied: tuple[KafkaServer, TcpProxy]) -> KafkaServer:
    """A broker whose log can be read."""
    return proxied[0]


class TestStructured(BackendContract):
    """Through a proxy, so that the broker can be away; a topic of one partition for each test."""

    config = {"topic": "elsewhere"}
    mode = "structured"

    @pytest.fixture(autouse=True)
    def _server(self, proxied: tuple[KafkaServer, TcpProxy]) -> None:
        self.server, self.proxy = proxied
        self.servers = f"127.0.0.1:{self.proxy.port}"
        self.topic = make_topic(self.server.servers)
        self.timeout = 10.0
        self.made: list[KafkaBackend] = []

    def make_backend(self, **options: Any) -> MessageBackend:
        backend = KafkaBackend(
            bootstrap_servers=self.servers,
            topic=self.topic,
            content_mode=self.mode,
            timeout=self.timeout,
            **options,
        )
        self.made.append(backend)
        return backend

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        return [self.members(record) for record in records(self.server.servers, self.topic)]

    def members(self, record: KafkaRecord) -> Mapping[str, Any]:
        """What arrived, as members of the JSON format."""
        headers = dict(headers_of(record))
        assert headers.pop("content-type") == b"application/cloudevents+json"
        found: dict[str, Any] = json.loads(record.value() or b"")
        traced = found.keys() & {"traceparent", "tracestate"}
        assert headers == {name: found[name].encode() for name in traced}
        assert (record.key() or b"").decode() == found.get("partitionkey", "")
        return found

    @contextmanager
    def break_broker(self) -> Iterator[None]:
        """No backend waits long meanwhile."""
        self._wait_for(0.25)
        with self.proxy.away():
            yield
        self._wait_for(10.0)

    def _wait_for(self, timeout: float) -> None:
        self.timeout = timeout
        for backend in self.made:
            backend.timeout = timeout
            if backend._connection is not None:
                backend._connection.timeout = timeout


class TestTransactions(TestStructured):
    """In transactions of Kafka, as a script sends them."""

    def make_backend(self, **options: Any) -> MessageBackend:
        return super().make_backend(transactional_id=f"test-{uuid4()}", **options)


class TestBinary(TestStructured):
    """In binary mode attributes are text, and data is bytes: that is what is compared."""

    mode = "binary"

    def members(self, record: KafkaRecord) -> Mapping[str, Any]:
        headers = {name: value.decode() for name, value in headers_of(record).items()}
        found: dict[str, Any] = {name.removeprefix("ce_"): text for name, text in headers.items()}
        assert (record.key() or b"").decode() == found.get("partitionkey", "")
        if record.value() is not None:
            found["data"] = record.value()
        return found

    def _arrived(self, messages: Sequence[Message]) -> None:
        assert self.read_back() == [_binary_members(message) for message in messages]


def _binary_members(message: Message) -> Mapping[str, Any]:
    """What a message is in binary mode, by the specification's words."""
    expected = {
        name: canonical(value)
        for name, value in message.event.to_dict().items()
        if name not in ("data", "data_base64", "datacontenttype")
    }
    if message.data_content_type:
        expected["content-type"] = message.data_content_type
    if message.data_binary is not None:
        return {**expected, "data": message.data_binary}
    if message.data_json is None:
        return expected
    content_type = expected.setdefault("content-type", "application/json")
    text = message.data_json if "json" in content_type else json.loads(message.data_json)
    return {**expected, "data": text.encode()}


# --- What is in the topic ----------------------------------------------------------------------


@pytest.mark.shows("read by the official SDK")
@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_official_sdk_reads_what_is_in_the_topic(
    servers: str, make: MakeBackend, mode: str
) -> None:
    """Any events arrive through a real broker with their attributes, their data and its types."""
    from tests.support.conformance import assert_same_event

    backend = make(content_mode=mode)

    @settings(max_examples=5, deadline=None)
    @given(events=st.lists(ANY_EVENT, min_size=12, max_size=12))
    def arrive(events: list[CloudEvent]) -> None:
        topic = make_topic(servers)
        config = {"topic": topic}
        messages = [make_message(event, config=config) for event in events]
        assert backend.send_batch(messages) == [None] * len(messages)
        for record, event in zip(records(servers, topic), events, strict=True):
            message = sdk.KafkaMessage(dict(headers_of(record)), None, record.value() or b"")
            assert_same_event(sdk.from_kafka(message, JSONFormat()), event)

    arrive()


def test_record_has_exactly_the_documented_parts(
    servers: str, make: MakeBackend, topic: str
) -> None:
    """In binary mode the value is the data, and every attribute is a header, `partitionkey` too."""
    message = make_message(
        id="A-1",
        event_type="order.placed",
        source="/shop/orders",
        subject="größer",
        time=datetime(2024, 2, 29, 12, 0, 0, 5, tzinfo=UTC),
        data={"total": 1},
        partition_key="order-1",
    )
    make(topic=topic, content_mode="binary").send(message)
    (record,) = records(servers, topic)
    assert (record.key(), record.value()) == (b"order-1", b'{"total":1}')
    assert headers_of(record) == {
        "ce_specversion": b"1.0",
        "ce_id": b"A-1",
        "ce_type": b"order.placed",
        "ce_source": b"/shop/orders",
        "ce_subject": "größer".encode(),
        "ce_time": b"2024-02-29T12:00:00.000005Z",
        "ce_partitionkey": b"order-1",
        "content-type": b"application/json",
    }


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_timestamp_is_the_events_time_where_that_is_wanted(
    servers: str, make: MakeBackend, topic: str, mode: str
) -> None:
    """With `timestamp="event"` a record has the event's time, if it has one that Kafka can have."""
    long_ago = datetime(2024, 2, 29, 12, 0, 0, 5000, tzinfo=UTC)
    times = [long_ago, None, datetime(1969, 12, 31, tzinfo=UTC)]
    messages = [make_message(time=time, data=1) for time in times]
    before = datetime.now(UTC).timestamp() * 1000 - 1
    for options in ({"timestamp": "event"}, {}):
        backend = make(topic=topic, content_mode=mode, **options)
        for message in messages:
            backend.send(message)
    stamps = [record.timestamp()[1] for record in records(servers, topic)]
    assert stamps[0] == 1_709_208_000_005
    assert all(before < stamp for stamp in stamps[1:])


@pytest.mark.shows("tombstones and compaction")
@pytest.mark.parametrize(
    ("data", "value"), [({}, None), ({"data": JSON_NULL}, b"null"), ({"data": b""}, b"")]
)
def test_event_without_data_is_a_tombstone(
    servers: str, make: MakeBackend, topic: str, data: dict[str, Any], value: bytes | None
) -> None:
    """No data is a null value in binary mode, and nothing else is."""
    make(topic=topic, content_mode="binary").send(make_message(partition_key="k", **data))
    (record,) = records(servers, topic)
    assert record.value() == value


@pytest.mark.shows("tombstones and compaction")
@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_compaction_keeps_the_last_event_of_each_key(
    server: KafkaServer, make: MakeBackend, mode: str
) -> None:
    """In binary mode an event without data deletes its key; in structured mode it is the last."""
    topic = make_topic(server.servers, config=COMPACTED)
    messages = [
        *(make_message(data=number, partition_key=key) for number in range(3) for key in "abc"),
        make_message(partition_key="b"),
        make_message(data=JSON_NULL, partition_key="c"),
    ]
    backend = make(bootstrap_servers=server.servers, topic=topic, content_mode=mode)
    assert backend.send_batch(messages) == [None] * len(messages)
    wanted = [b"a", b"c"] if mode == "binary" else [b"a", b"b", b"c"]

    def is_compacted() -> bool:
        # The marks that `records` writes begin the segments that Kafka needs before it compacts.
        return [record.key() for record in records(server.servers, topic)] == wanted

    wait_until(is_compacted, 60, "the topic is compacted")
    if mode == "structured":
        last = {each.partition_key: each.event_id for each in messages}
        assert ids(records(server.servers, topic)) == list(last.values())


COMPACTED = {
    "cleanup.policy": "compact",
    "segment.ms": "50",
    "min.cleanable.dirty.ratio": "0.001",
    "delete.retention.ms": "50",
}
"""The configuration of a topic that is compacted as soon as can be."""


@pytest.mark.shows("key and topic")
def test_topic_is_made_from_the_event(servers: str, make: MakeBackend) -> None:
    """A template names the topic of each event, and `publisher_config` names another one."""
    prefix = f"test-{uuid4()}"
    own = f"{prefix}.own"
    messages = [
        make_message(event_type="order.placed", partition_key="a/b"),
        make_message(event_type="order.placed", partition_key="c", config={"topic": own}),
        make_message(event_type="order/paid"),
    ]
    assert make(topic=f"{prefix}.{{type}}.{{key}}").send_batch(messages) == [None] * 3
    names = [f"{prefix}.order.placed.a_2Fb", own, f"{prefix}.order_2Fpaid._"]
    for name, message in zip(names, messages, strict=True):
        assert ids(records(servers, name)) == [message.event_id]


def test_topic_that_is_no_name_is_rejected_alone(make: MakeBackend, topic: str) -> None:
    """An event whose topic no cluster can have is given up, and the others are sent."""
    long = make_message(subject="x" * 250, partition_key="a")
    messages = [*numbers(1, "a"), long, *numbers(1, "a"), *numbers(1, "b")]
    outcomes = make(topic=f"{topic}.{{subject}}").send_batch(messages)
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [type(None), Rejected, Held, type(None)]
    assert "249" in str(outcomes[1])


def test_tampered_event_is_transient_and_holds_its_key(make: MakeBackend, topic: str) -> None:
    """A message that cannot be encoded fails alone."""
    broken = make_message(data=1, partition_key="a")
    broken.extensions = {"bad": object()}
    messages = [broken, *numbers(1, "a"), *numbers(1, "b")]
    outcomes = make(topic=topic).send_batch(messages)
    assert [type(outcome) for outcome in outcomes] == [TransientError, Held, type(None)]


# --- Names -------------------------------------------------------------------------------------


@pytest.mark.shows("names are escaped")
@pytest.mark.parametrize(
    ("field", "value", "escaped"),
    [
        ("type", "order.placed", "order.placed"),
        ("key", "order.placed", "order_2Eplaced"),
        ("subject", "order_placed-7", "order_placed-7"),
        ("source", "/shop/größe", "_2Fshop_2Fgr_C3_B6_C3_9Fe"),
        ("key", "a_2Fb", "a_5F2Fb"),
        ("key", "a_", "a_5F"),
        ("key", "_", "_5F"),
        ("key", "\r\n*#>", "_0D_0A_2A_23_3E"),
        ("key", " ", "_20"),
    ],
)
def test_value_cannot_break_out_of_its_part(field: str, value: str, escaped: str) -> None:
    """What has a meaning in a topic's name, or cannot be in one, is escaped."""
    assert escape_topic(field, value) == escaped


@pytest.mark.shows("names are escaped")
@given(values=st.lists(st.text(min_size=1), min_size=2, max_size=2))
def test_no_two_values_have_the_same_name(values: list[str]) -> None:
    """An escaped value can be read back, so that no event gets into the topic of another."""
    for value in values:
        name = escape_topic("key", value)
        assert re.fullmatch(r"[a-zA-Z0-9_-]+", name)
        assert name != "_"  # which stands for no value
        read = unquote_to_bytes(re.sub(r"_(?=[0-9A-F]{2})", "%", name))
        assert read.decode(errors="surrogatepass") == value


# --- Waves -------------------------------------------------------------------------------------


def test_batch_is_one_record_batch_for_each_partition(
    server: KafkaServer, make: MakeBackend
) -> None:
    """A batch costs one round trip, the first one of a new producer as well."""
    topic = make_topic(server.servers, 4)
    messages = [make_message(data="x" * 300, partition_key=f"k{n % 100}") for n in range(1000)]
    backend = make(bootstrap_servers=server.servers, topic=topic)
    for _ in range(3):
        assert backend.send_batch(messages) == [None] * 1000
    batches = server.record_batches(topic)
    assert {partition: len(each) for partition, each in batches.items()} == dict.fromkeys(
        range(4), 3
    )
    assert sum(map(sum, batches.values())) == 3000


def test_batch_of_a_new_topic_is_one_record_batch(server: KafkaServer, make: MakeBackend) -> None:
    """The events for a topic that the producer has not met yet stay together as well."""
    topic, new = make_topic(server.servers), make_topic(server.servers)
    backend = make(bootstrap_servers=server.servers, topic=topic)
    backend.send(make_message())
    assert backend.send_batch(numbers(1000, config={"topic": new})) == [None] * 1000
    assert server.record_batches(new) == {0: [1000]}


@pytest.mark.parametrize(
    ("config", "waves"),
    [({}, [1]), ({"batch.size": 20_000}, [5, 6, 7]), ({"batch.num.messages": 90}, [3])],
    ids=["default", "bytes", "count"],
)
def test_wave_is_never_more_than_one_record_batch(
    server: KafkaServer, make: MakeBackend, config: dict[str, Any], waves: list[int]
) -> None:
    """What is too much for one record batch goes in several waves, and stays in order."""
    topic = make_topic(server.servers)
    messages = [make_message(data="x" * 300, partition_key=f"k{n % 7}") for n in range(200)]
    backend = make(bootstrap_servers=server.servers, topic=topic, config=config)
    sent = count_waves(backend)
    assert backend.send_batch(messages) == [None] * 200
    assert len(sent) in waves
    assert server.record_batches(topic) == {0: sent}
    assert ids(records(server.servers, topic)) == [message.event_id for message in messages]


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_size_of_a_record_is_not_underestimated(
    server: KafkaServer, make: MakeBackend, mode: str
) -> None:
    """Many small events, and some with much beside their data, never make two record batches."""
    topic = make_topic(server.servers)
    extensions = {f"name{number}": "x" for number in range(30)}
    messages = [
        make_message(partition_key="k", extensions=extensions if n % 2 else {}) for n in range(400)
    ]
    config = {"batch.size": 30_000}
    backend = make(bootstrap_servers=server.servers, topic=topic, content_mode=mode, config=config)
    sent = count_waves(backend)
    assert backend.send_batch(messages) == [None] * 400
    assert len(sent) > 3
    assert server.record_batches(topic) == {0: sent}


def test_topics_of_a_key_wait_for_each_other(server: KafkaServer, make: MakeBackend) -> None:
    """Where a key changes its topic a new wave begins, for that key; the others do not wait."""
    first, second = make_topic(server.servers), make_topic(server.servers)

    def to(topic: str, key: str) -> Message:
        return make_message(partition_key=key, config={"topic": topic})

    to_first, to_second = partial(to, first), partial(to, second)
    messages = [to_first("1"), to_first("2"), to_second("1"), to_second("2"), to_second("3")]
    messages.append(to_first("1"))
    backend = make(bootstrap_servers=server.servers, topic=first)
    sent = count_waves(backend)
    assert backend.send_batch(messages) == [None] * 6
    # Both of the first topic, with the only one of key 3; then 1 and 2 of the second; then 1.
    assert sent == [3, 2, 1]
    assert server.record_batches(first) == {0: [2, 1]}
    assert server.record_batches(second) == {0: [1, 2]}


# --- Settings ----------------------------------------------------------------------------------


@pytest.mark.shows("acks of all replicas, idempotence, librdkafka's own settings")
@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("topic", "", "empty"),
        ("topic", "a b", "letters"),
        ("topic", "..", "letters"),
        ("topic", "x" * 250, "250"),
        ("topic", "a/{type}", "letters"),
        ("topic", "{id}", "{key}"),
        ("topic", 7, "string"),
        ("bootstrap_servers", "", "host:port"),
        ("bootstrap_servers", [], "host:port"),
        ("timestamp", "time", "'event'"),
        ("config", "acks=all", "dict"),
        ("config", {"acks": 1}, "'all'"),
        ("config", {"request.required.acks": "0"}, "'all'"),
        ("config", {"enable.idempotence": False}, "'true'"),
        ("config", {"delivery.report.only.error": True}, "'false'"),
        ("config", {"partitioner": "random"}, "order"),
        ("config", {"bootstrap.servers": "other:9092"}, "'bootstrap_servers'"),
        ("config", {"message.timeout.ms": 1000}, "'timeout'"),
        ("config", {"message.max.bytes": 1000}, "'max_message_bytes'"),
        ("config", {"linger.ms": 5}, "when to send"),
        ("config", {"queue.buffering.max.messages": 5}, "'batch.size'"),
        ("config", {"transactional.id": "mine"}, "give the option 'transactional_id'"),
        ("config", {"error_cb": print}, "uses it"),
        ("config", {"batch.size": "large"}, "whole number"),
    ],
)
def test_wrong_option_is_named(option: str, value: Any, said: str) -> None:
    """A wrong option, or one that contradicts a promise, is an error that names it."""
    options = {option: value}
    if isinstance(value, dict):
        options["config"] = {"sasl.password": "secret", **value}
    with pytest.raises(BackendConfigurationError) as caught:
        KafkaBackend(alias="orders", **options)
    assert f"OUTBOX_PUBLISHERS['orders']['OPTIONS'][{option!r}]" in str(caught.value)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.shows("acks of all replicas, idempotence, librdkafka's own settings")
@pytest.mark.parametrize(
    "config",
    [
        {"acks": "all", "enable.idempotence": True, "partitioner": "consistent_random"},
        {"acks": -1, "enable.idempotence": "true", "delivery.report.only.error": False},
        {"compression.type": "lz4", "batch.size": 100_000, "batch.num.messages": "500"},
        {"client.id": "shop", "reconnect.backoff.max.ms": 5000, "log_level": 6},
    ],
)
def test_what_librdkafka_knows_is_passed_on(
    servers: str, make: MakeBackend, topic: str, config: dict[str, Any]
) -> None:
    """Settings that contradict nothing work."""
    messages = numbers(3)
    backend = make(topic=topic, config=config, bootstrap_servers=[servers, servers])
    assert backend.send_batch(messages) == [None] * 3
    assert ids(records(servers, topic)) == [message.event_id for message in messages]


@pytest.mark.parametrize(
    "config", [{"no.such.key": 1}, {"security.protocol": "maybe"}, {"ssl.ca.location": "/no.pem"}]
)
def test_what_librdkafka_does_not_take_is_named(make: MakeBackend, config: dict[str, Any]) -> None:
    """A wrong setting of librdkafka's blames no event, says what is wrong, and shows no secret."""
    backend = make(config={"sasl.password": "secret", "security.protocol": "ssl", **config})
    with pytest.raises(BackendConfigurationError, match=r"\['config'\]") as caught:
        backend.send(make_message())
    assert backend.health_check() is False
    assert "secret" not in f"{caught.value} {backend!r}"


@pytest.mark.parametrize("name", ["", "a b", ".", "x" * 250, None, 7])
def test_wrong_topic_of_an_event_is_refused(make: MakeBackend, name: Any) -> None:
    """A topic in `publisher_config` that cannot be is refused with its key."""
    with pytest.raises(InvalidPublisherConfig, match="'topic'") as caught:
        make().validate_config({"topic": name})
    assert caught.value.backend == "default"


def test_larger_events_where_the_cluster_takes_them(servers: str, make: MakeBackend) -> None:
    """`max_message_bytes` raises the limit of librdkafka, too."""
    topic = make_topic(servers, config={"max.message.bytes": "3000000"})
    messages = [make_message(data="x" * 2_500_000, partition_key="k"), *numbers(2, "k")]
    outcomes = make(topic=topic).send_batch(messages)
    assert [type(outcome) for outcome in outcomes] == [Rejected, Held, Held]
    assert make(topic=topic, max_message_bytes=2_900_000).send_batch(messages) == [None] * 3
    assert ids(records(servers, topic)) == [message.event_id for message in messages]


# --- Life --------------------------------------------------------------------------------------


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def test_closing_leaves_no_threads(make: MakeBackend, topic: str) -> None:
    """What librdkafka has started for the backend ends with it, health checks included."""
    before = _threads()
    backend = make(topic=topic)
    backend.send(make_message())
    assert backend.health_check()
    assert _threads() > before
    backend.close()
    wait_until(lambda: _threads() <= before, 10.0, "the threads end")


FORK = """
import os, sys
from django_broadcaster.backends import KafkaBackend
from django_broadcaster.testing import make_message

servers, topic = sys.argv[1:]
backend = KafkaBackend(alias="default", bootstrap_servers=servers, topic=topic)
messages = [make_message(id=f"parent-{number}") for number in range(4)]
backend.send_batch(messages[:2])
pid = os.fork()
if pid == 0:
    children = [make_message(id=f"child-{number}") for number in range(4)]
    sys.exit(backend.send_batch(children) != [None] * 4)
assert backend.send_batch(messages[2:]) == [None] * 2
assert os.waitpid(pid, 0)[1] == 0
"""


def test_child_process_begins_anew(servers: str, topic: str) -> None:
    """After a fork both sides publish, each over connections of its own, and end well."""
    command = [sys.executable, "-c", FORK, servers, topic]
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    subprocess.run(command, check=True, env=environment, timeout=60)
    stored = ids(records(servers, topic))
    for side in ("parent", "child"):
        mine = [each for each in stored if each.startswith(side)]
        assert mine == [f"{side}-{number}" for number in range(4)]


def test_committed_events_reach_the_topic(
    servers: str, topic: str, database: str, settings: Settings
) -> None:
    """From publish_event in a transaction through a relay to the topic, in order."""
    settings.OUTBOX_PUBLISHERS = {
        "default": {
            "BACKEND": "django_broadcaster.backends.KafkaBackend",
            "OPTIONS": {"bootstrap_servers": servers, "topic": topic},
        }
    }
    with transaction.atomic(using=database):
        for number in range(20):
            publisher.publish_event(
                "order.placed",
                "/shop/orders",
                {"number": number},
                subject=str(number),
                partition_key="order-7",
                using=database,
            )
    with DeliveryLoop(database, "default") as loop:
        while loop.turn(7).found_work:
            pass
    found = [json.loads(record.value() or b"") for record in records(servers, topic)]
    assert [event["data"]["number"] for event in found] == list(range(20))
    assert set(statuses(database).values()) == {"published"}


@pytest.mark.shows("event over the topic's own limit")
def test_event_over_the_topics_limit_stops_its_key_only(
    servers: str, database: str, settings: Settings
) -> None:
    """The event becomes a dead letter that names the limit, and all others are delivered."""
    topic = make_topic(servers, config={"max.message.bytes": "5000"})
    settings.OUTBOX_PUBLISHERS = {
        "default": {
            "BACKEND": "django_broadcaster.backends.KafkaBackend",
            "OPTIONS": {"bootstrap_servers": servers, "topic": topic},
        }
    }
    publish("a1", "b1", using=database)
    publisher.publish_event(
        *("order.placed", "/tests", {"name": "x" * 6000}),
        subject="a2",
        partition_key="a",
        using=database,
    )
    publish("a3", "b2", "c1", using=database)
    with DeliveryLoop(database, "default") as loop:
        first = loop.turn(100)
        waiting = {name for name, status in statuses(database).items() if status == "pending"}
        drain(loop)
    assert first.found_work
    assert waiting == {"a3"}
    refused = row("a2", database)
    assert (refused.status, refused.retry_count) == ("failed", 0)
    assert "MSG_SIZE_TOO_LARGE" in refused.last_error
    arrived = [json.loads(record.value() or b"")["subject"] for record in records(servers, topic)]
    assert sorted(arrived) == ["a1", "a3", "b1", "b2", "c1"]
    assert first_arrivals(arrived) == {"a": ["a1", "a3"], "b": ["b1", "b2"], "c": ["c1"]}
