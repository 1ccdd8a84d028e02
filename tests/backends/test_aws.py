"""The SQS and SNS backends against moto's server: what arrives, how, and in which order."""

from __future__ import annotations

import json
import string
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest
from cloudevents.core.bindings import kafka
from cloudevents.core.formats.json import JSONFormat
from django.db import transaction
from django.test import override_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from django_broadcaster.backends import Message, MessageBackend, Outcome, SNSBackend, SQSBackend
from django_broadcaster.backends.aws import entries
from django_broadcaster.backends.bindings import AWS, canonical
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    BackendUnavailable,
    InvalidPublisherConfig,
    PayloadTooLarge,
)
from django_broadcaster.models import OutboxEvent, OutboxEventStatus
from django_broadcaster.publishers import publisher
from django_broadcaster.relay.backend_thread import WorkerOptions
from django_broadcaster.relay.worker import Worker
from django_broadcaster.testing import BackendContract, Fault, make_message
from tests.events.strategies import EVENTS as ANY_EVENT
from tests.support.aws_server import ACCOUNT, REGION, Arrived, AWSServer, aws_server
from tests.support.conformance import assert_long_line_shows_signs_of_life, assert_same_event
from tests.support.tcp_proxy import TcpProxy

MakeBackend = Callable[..., SQSBackend]
QUEUE = "https://sqs.eu-west-1.amazonaws.com/123456789012/events"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:events"


def client_options(url: str) -> dict[str, Any]:
    """What the backends are told about the server of the tests."""
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    return {"endpoint_url": url, "region_name": REGION, **keys}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AWSServer]:
    """A server for the tests of this file."""
    with aws_server(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture
def queue(server: AWSServer, request: pytest.FixtureRequest) -> str:
    """A queue that no other test uses; FIFO unless a test asks for `.std`."""
    return server.make_queue(f"q{uuid4().hex}{getattr(request, 'param', '.fifo')}")


@pytest.fixture
def make(server: AWSServer, queue: str) -> Iterator[MakeBackend]:
    """Make backends, which are closed at the end."""
    with ExitStack() as made:

        def make(**options: Any) -> SQSBackend:
            options = {"queue_url": queue, "client": client_options(server.url), **options}
            return made.enter_context(closing(SQSBackend(alias="default", **options)))

        yield make


def read_by_sdk(arrived: Arrived) -> Any:
    """What the CloudEvents SDK finds: the names are those of its Kafka binding."""
    headers = {name: text.encode() for name, text in arrived.attributes.items()}
    return kafka.from_kafka(kafka.KafkaMessage(headers, None, arrived.body.encode()), JSONFormat())


# --- The contract ------------------------------------------------------------------------------


class Suite(BackendContract):
    """Through a proxy, so that the server can be away. `make_destination` says what for."""

    mode = "structured"
    suffix = ".fifo"

    @pytest.fixture(autouse=True)
    def _server(self, server: AWSServer) -> Iterator[None]:
        self.server = server
        self.queue_url = server.make_queue(f"c{uuid4().hex}{self.suffix}")
        self.arrived: list[Arrived] = []
        with TcpProxy("127.0.0.1", server.port) as self.proxy:
            self.client = client_options(f"http://127.0.0.1:{self.proxy.port}")
            self.make_destination()
            yield

    def make_destination(self) -> None:
        """Make what there has to be beside the queue."""

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        self.arrived += self.server.take(self.queue_url)
        return [self.members(each) for each in self.arrived]

    def members(self, arrived: Arrived) -> Mapping[str, Any]:
        """What arrived as members of the JSON format."""
        assert arrived.attributes == {"content-type": "application/cloudevents+json"}
        return json.loads(arrived.body)  # type: ignore[no-any-return]

    def break_broker(self) -> AbstractContextManager[object]:
        return self.proxy.away()


class TestSQSFifo(Suite):
    """Structured, in order per key."""

    config = {"queue_url": "https://sqs.eu-west-1.amazonaws.com/123456789012/other.fifo"}

    def make_backend(self, **options: Any) -> MessageBackend:
        return SQSBackend(
            queue_url=self.queue_url, client=self.client, content_mode=self.mode, **options
        )


class Binary:
    """In binary mode attributes are text, and data is bytes: that is what is compared."""

    mode = "binary"

    def members(self, arrived: Arrived) -> Mapping[str, Any]:
        """Return the attributes, and the data as bytes; or the event that did not fit."""
        if arrived.attributes.get("content-type") == "application/cloudevents+json":
            return CloudEvent.from_dict(json.loads(arrived.body)).to_dict()
        found = {name.removeprefix("ce_"): text for name, text in arrived.attributes.items()}
        if "content-type" in found:
            found["datacontenttype"] = found.pop("content-type")
        return {**found, "data": arrived.body.encode()}

    def _arrived(self, messages: Sequence[Message]) -> None:
        for found, message in zip(self.read_back(), messages, strict=True):  # type: ignore[attr-defined]
            is_binary = isinstance(found.get("data"), bytes)
            assert found == (binary_members(message) if is_binary else message.event.to_dict())


def binary_members(message: Message) -> Mapping[str, Any]:
    """What a message is in binary mode, by the specification's words."""
    expected = {
        key: canonical(value)
        for key, value in message.event.to_dict().items()
        if key not in ("data", "data_base64")
    }
    if message.data_binary is not None:
        return {**expected, "data": message.data_binary}
    assert message.data_json is not None
    content_type = expected.setdefault("datacontenttype", "application/json")
    text = message.data_json if "json" in content_type else json.loads(message.data_json)
    return {**expected, "data": text.encode()}


class TestSQSFifoBinary(Binary, TestSQSFifo):
    """Attributes as message attributes."""


class NoOrder:
    """What keeps no order: the same arrives, in whichever order."""

    def _arrived(self, messages: Sequence[Message]) -> None:
        arrived = {each["id"]: each for each in self.read_back()}  # type: ignore[attr-defined]
        assert sorted(arrived) == sorted(message.event_id for message in messages)
        for message in messages:
            event = CloudEvent.from_dict(arrived[message.event_id])
            assert event.to_dict() == message.event.to_dict()

    def test_order_of_a_key_is_kept(self, backend: MessageBackend) -> None:
        """The events of each key arrive, over several batches; their order is not promised."""
        messages = [make_message(data=n, partition_key=f"key-{n % 7}") for n in range(60)]
        for start in range(0, 60, 30):
            assert backend.send_batch(messages[start : start + 30]) == [None] * 30
        self._arrived(messages)


class TestSQSStandard(NoOrder, TestSQSFifo):
    """A standard queue."""

    suffix = ""


class TestSNSFifo(Suite):
    """A FIFO topic to which a FIFO queue is subscribed."""

    config = {"topic_arn": "arn:aws:sns:eu-west-1:123456789012:other.fifo"}

    def make_destination(self) -> None:
        name = self.queue_url.rpartition("/")[2]
        attributes = {"FifoTopic": "true"} if self.suffix else {}
        with closing(boto3.client("sns", **client_options(self.server.url))) as sns:
            self.topic = sns.create_topic(Name=name, Attributes=attributes)["TopicArn"]
            sns.subscribe(
                TopicArn=self.topic,
                Protocol="sqs",
                Endpoint=f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}",
                Attributes={"RawMessageDelivery": "true"},
            )

    def make_backend(self, **options: Any) -> MessageBackend:
        return SNSBackend(
            topic_arn=self.topic, client=self.client, content_mode=self.mode, **options
        )


class TestSNSFifoBinary(Binary, TestSNSFifo):
    """Attributes as message attributes."""


@pytest.mark.shows("group and deduplication id")
@pytest.mark.parametrize("suffix", ["", ".fifo"])
def test_topic_passes_keys_and_ids_on(server: AWSServer, suffix: str) -> None:
    """What is subscribed to a FIFO topic gets the group and the id; a standard topic has none."""
    suite = TestSNSFifo()
    suite.server, suite.suffix = server, suffix
    suite.queue_url = server.make_queue(f"t{uuid4().hex}{suffix}")
    suite.client = client_options(server.url)
    suite.make_destination()
    with closing(suite.make_backend(alias="default")) as backend:
        messages = [make_message(id=f"A-{n}", data=n, partition_key="a b") for n in range(12)]
        assert backend.send_batch(messages) == [None] * 12
    arrived = server.take(suite.queue_url)
    assert {each.group for each in arrived} == {"a%20b" if suffix else None}
    assert sorted(json.loads(each.body)["data"] for each in arrived) == list(range(12))


# --- What is in the queue ----------------------------------------------------------------------


@pytest.mark.shows("read by the official SDK")
@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_official_sdk_reads_every_event(
    make: MakeBackend, server: AWSServer, queue: str, mode: str
) -> None:
    """Whatever an event is, the CloudEvents SDK finds the same in what arrived."""
    backend = make(content_mode=mode)

    @settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(ANY_EVENT, min_size=10, max_size=30, unique_by=lambda e: (e.id, e.source)))
    def check(events: list[CloudEvent]) -> None:
        # Of one key, so that they arrive in order; and under ids that no example before had.
        messages = [make_message(event, partition_key="key") for event in events]
        for message in messages:
            message.event_id += uuid4().hex
            message.extensions = {**event_extensions(message), "partitionkey": "key"}
        assert backend.send_batch(messages) == [None] * len(messages)
        for arrived, message in zip(server.take(queue), messages, strict=True):
            assert len(arrived.attributes) <= 10
            assert not any(map(entries._FORBIDDEN.search, (arrived.body, *arrived.attributes)))
            assert_same_event(read_by_sdk(arrived), message.event)

    check()


def event_extensions(message: Message) -> dict[str, Any]:
    """The extensions of a message without its key."""
    return {key: value for key, value in message.extensions.items() if key != "partitionkey"}


RECEIVED = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
BASE = {"ce_specversion": "1.0", "ce_id": "A-1", "ce_source": "/shop", "ce_type": "order.placed"}


@pytest.mark.parametrize(
    ("attributes", "body", "arrived"),
    [
        ({"data": {"a": 1}}, '{"a":1}', {"content-type": "application/json"}),
        ({"data": "ü☃", "data_content_type": "text/plain"}, "ü☃", {"content-type": "text/plain"}),
        ({"data": b"<a/>", "data_content_type": "text/xml"}, "<a/>", {"content-type": "text/xml"}),
        (
            {"data": 1, "subject": "7", "extensions": {"n": 5, "flag": True}},
            "1",
            {
                "content-type": "application/json",
                "ce_subject": "7",
                "ce_n": "5",
                "ce_flag": "true",
            },
        ),
    ],
    ids=["JSON", "text", "bytes that are text", "extensions"],
)
def test_binary_mode_is_as_documented(
    make: MakeBackend,
    server: AWSServer,
    queue: str,
    attributes: dict[str, Any],
    body: str,
    arrived: dict[str, str],
) -> None:
    """The body is the data as text, and each attribute a message attribute of the Kafka binding."""
    event = {
        "id": "A-1",
        "source": "/shop",
        "event_type": "order.placed",
        "time": None,
        **attributes,
    }
    make(content_mode="binary").send(make_message(**event))
    (message,) = server.take(queue)
    assert message.body == body
    assert message.attributes == {**BASE, **arrived}


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"data": b"", "data_content_type": "text/plain"},
        {"data": b"\xff\x00", "data_content_type": "application/octet-stream"},
        {"data": "a\x01b", "data_content_type": "text/plain"},
        {"data": "a\uffffb"},
        {"data": "ü", "data_content_type": "text/plain; charset=latin-1"},
        {"data": 1, "extensions": {"empty": ""}},
        {"data": 1, "extensions": {name: name for name in string.ascii_lowercase[:10]}},
        {"data": {"specversion": "1.0"}, "data_content_type": "application/cloudevents+json"},
        {"event": CloudEvent.from_dict({**RECEIVED, "data_base64": "eA=="})},
    ],
    ids=["no data", "no bytes", "bytes", "control", "noncharacter", "charset", "empty", "many",
         "an event", "bytes without a type"],
)  # fmt: skip
def test_what_does_not_fit_in_binary_mode_goes_structured(
    make: MakeBackend, server: AWSServer, queue: str, attributes: dict[str, Any]
) -> None:
    """Nothing of an event is lost or rejected because ten attributes or a text can't hold it."""
    message = make_message(**attributes)
    make(content_mode="binary").send(message)
    (arrived,) = server.take(queue)
    assert arrived.attributes == {"content-type": "application/cloudevents+json"}
    assert CloudEvent.from_dict(json.loads(arrived.body)) == message.event


def test_each_answer_of_a_long_line_is_a_sign_of_life(make: MakeBackend) -> None:
    """A slow server whose answers come is no stall."""
    assert_long_line_shows_signs_of_life(make())


def test_attributes_are_ten_at_the_most(make: MakeBackend, server: AWSServer, queue: str) -> None:
    """The last event that has room has ten attributes, and one more extension is one too many."""
    names = string.ascii_lowercase[:5]
    counts = []
    for some in (names[:4], names):
        backend = make(content_mode="binary")
        backend.send(make_message(data=1, extensions=dict.fromkeys(some, "x")))
        (arrived,) = server.take(queue)
        counts.append(len(arrived.attributes))
    assert counts == [10, 1]


def test_noncharacters_do_not_reach_the_service() -> None:
    """U+FFFE and U+FFFF, which SQS would replace in silence, are escaped in JSON."""
    message = make_message(data="\ufffe\uffff")
    written = entries.write(message, "structured")
    assert not entries._FORBIDDEN.search(written.body)
    assert CloudEvent.from_dict(json.loads(written.body)) == message.event


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_size_counts_names_types_and_values(mode: Any) -> None:
    """The size is what the service counts: bytes of the body and of all parts of attributes."""
    for data in ("ü☃", "\uffff", 1):
        written = entries.write(make_message(data=data, extensions={"note": "ü"}), mode)
        parts = [written.body]
        for name, value in written.attributes.items():
            parts += [name, value["DataType"], value["StringValue"]]
        assert written.size == sum(len(part.encode()) for part in parts)


# --- FIFO: groups and repetitions --------------------------------------------------------------


@pytest.mark.shows("group and deduplication id")
@pytest.mark.shows("names are escaped")
@pytest.mark.parametrize(
    ("key", "group"),
    [
        ("order-1", "order-1"),
        ("a b/ü%", "a%20b/%C3%BC%25"),
        ("x" * 128, "x" * 128),
        ("x" * 129, "1057cb99"),
        ("ü" * 30, "e3bd3e7e"),
    ],
    ids=["plain", "escaped", "longest", "too long", "too long when escaped"],
)
def test_key_is_the_group(key: str, group: str) -> None:
    """A key is a group's id as far as the API allows it, else a digest."""
    found = entries.group_id(make_message(data=1, partition_key=key))
    if len(group) == 8:
        assert len(found) == 64
        assert found != entries.group_id(make_message(data=1, partition_key=f"{key}x"))
    else:
        assert found == group


@pytest.mark.shows("names are escaped")
@settings(max_examples=200, deadline=None)
@given(ANY_EVENT)
def test_ids_are_within_the_limits_of_the_api(event: CloudEvent) -> None:
    """Whatever an event is, its ids have 1 to 128 printable characters without spaces."""
    message = make_message(event)
    allowed = set(string.ascii_letters + string.digits + string.punctuation)
    for found in (entries.group_id(message), entries.deduplication_id(message)):
        assert 1 <= len(found) <= 128
        assert set(found) <= allowed


def test_events_without_a_key_have_groups_of_their_own(
    make: MakeBackend, server: AWSServer, queue: str
) -> None:
    """They need not wait for each other at the consumer."""
    assert make().send_batch([make_message(data=n) for n in range(20)]) == [None] * 20
    assert len({each.group for each in server.take(queue)}) == 20


@pytest.mark.shows("group and deduplication id")
@pytest.mark.parametrize("event_id", ["A-1", "ü" * 10, "x" * 500])
def test_repetition_has_no_effect_on_a_fifo_queue(
    make: MakeBackend, server: AWSServer, queue: str, event_id: str
) -> None:
    """The same event sent again is dropped; the same id of another source is not."""
    backend = make()
    first = make_message(id=event_id, source="/a", data=1)
    other = make_message(id=event_id, source="/b", data=2)
    for _ in range(2):
        assert backend.send_batch([first, other]) == [None, None]
    assert sorted(json.loads(each.body)["data"] for each in server.take(queue)) == [1, 2]


def test_deduplication_id_begins_with_the_events_id() -> None:
    """So that it can be found in the console."""
    found = entries.deduplication_id(make_message(id="A-1", source="/shop"))
    assert found.startswith("A-1.")


# --- Batches -----------------------------------------------------------------------------------


@pytest.mark.shows("batches of ten within the limit of bytes")
@pytest.mark.parametrize(
    ("keys", "at_most"),
    [(list(range(100)), 10), ([n % 10 for n in range(100)], 100), ([1] * 12, 12)],
    ids=["many keys", "ten keys", "one key"],
)
@pytest.mark.parametrize("queue", [".fifo"], indirect=True)
def test_calls_are_as_few_as_the_order_allows(
    make: MakeBackend, monkeypatch: pytest.MonkeyPatch, keys: list[int], at_most: int
) -> None:
    """A hundred keys are ten calls; no call has two events of one key."""
    backend = make(connections=1)
    calls: list[list[str]] = []

    def call(client: Any, destination: str, fields: list[dict[str, Any]]) -> Any:
        calls.append([each["MessageGroupId"] for each in fields])
        return SQSBackend.call(backend, client, destination, fields)

    monkeypatch.setattr(backend, "call", call)
    messages = [make_message(data=n, partition_key=f"k{key}") for n, key in enumerate(keys)]
    assert backend.send_batch(messages) == [None] * len(messages)
    assert len(calls) == len(keys) // 10 if at_most == 10 else len(calls) <= at_most
    assert all(max(Counter(groups).values()) == 1 for groups in calls)


@pytest.mark.parametrize("queue", [""], indirect=True)
def test_standard_queue_gets_one_key_in_full_calls(
    make: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no order is kept, none is waited for: a hundred events of one key are ten calls."""
    backend = make()
    sizes: list[int] = []

    def call(client: Any, destination: str, fields: list[dict[str, Any]]) -> Any:
        sizes.append(len(fields))
        return SQSBackend.call(backend, client, destination, fields)

    monkeypatch.setattr(backend, "call", call)
    messages = [make_message(data=n, partition_key="key") for n in range(100)]
    assert backend.send_batch(messages) == [None] * 100
    assert sizes == [10] * 10


@pytest.mark.shows("batches of ten within the limit of bytes")
def test_large_messages_share_the_bytes_of_a_call(
    make: MakeBackend, server: AWSServer, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The messages of a call have 256 KiB together; one as large as that goes alone."""
    backend = make()
    sizes: list[int] = []

    def call(client: Any, destination: str, fields: list[dict[str, Any]]) -> Any:
        sizes.append(sum(len(each["MessageBody"].encode()) for each in fields))
        return SQSBackend.call(backend, client, destination, fields)

    monkeypatch.setattr(backend, "call", call)
    messages = [make_message(data="ü" * n) for n in (50_000, 60_000, 129_000, 10, 120_000)]
    assert backend.send_batch(messages) == [None] * 5
    assert max(sizes) <= 256 * 2**10
    assert len(server.take(queue)) == 5


def test_events_can_go_to_queues_of_their_own(
    make: MakeBackend, server: AWSServer, queue: str
) -> None:
    """`publisher_config` names another queue, and a key keeps its order over both."""
    other = server.make_queue(f"o{uuid4().hex}.fifo")
    messages = [
        make_message(data=n, partition_key="key", config={"queue_url": other} if n % 2 else {})
        for n in range(10)
    ]
    assert make().send_batch(messages) == [None] * 10
    data = [[json.loads(m.body)["data"] for m in server.take(url)] for url in (queue, other)]
    assert data == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]


def test_end_to_end_from_a_transaction(database: str, server: AWSServer, queue: str) -> None:
    """What a transaction published is in the queue, in order, after the relay has run."""
    options = {"queue_url": queue, "client": client_options(server.url)}
    setting = {"BACKEND": "django_broadcaster.backends.SQSBackend", "OPTIONS": options}
    with override_settings(OUTBOX_PUBLISHERS={"default": setting}):
        with transaction.atomic(database):
            for number in range(5):
                publisher.publish_event(
                    "order.placed", "/shop", {"n": number}, partition_key="order", using=database
                )
            with pytest.raises(PayloadTooLarge):
                publisher.publish_event(
                    "order.placed", "/shop", "x" * 263_000, partition_key="order", using=database
                )
        assert Worker(
            WorkerOptions(
                database=database, backends=["default"], batch_size=100, interval=0.1, drain=True
            )
        ).run()
    assert [json.loads(each.body)["data"]["n"] for each in server.take(queue)] == [0, 1, 2, 3, 4]
    states = set(OutboxEvent.objects.using(database).values_list("status", flat=True))
    assert states == {OutboxEventStatus.PUBLISHED}


# --- Options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"queue_url": "events"}, "queue_url"),
        ({"queue_url": "https://u:secret@sqs.example/1/events"}, "queue_url"),
        ({"queue_url": None}, "queue_url"),
        ({"connections": 0}, "connections"),
        ({"max_message_bytes": 0}, "max_message_bytes"),
        ({"connections": 1.5}, "connections"),
        ({"client": "eu-west-1"}, "client"),
        ({"client": {"region": "eu-west-1"}}, "client"),
        ({"client": {"endpoint_url": "https://u:secret@sqs.example"}}, "client"),
        ({"client": {"endpoint_url": "sqs.example"}}, "client"),
    ],
)
def test_wrong_option_is_named(options: dict[str, Any], named: str) -> None:
    """A wrong value is an error of the settings that names the option, and shows no secret."""
    with pytest.raises(BackendConfigurationError, match=rf"\['{named}'\]") as caught:
        SQSBackend(**{"alias": "default", "queue_url": QUEUE, **options})
    assert "u:secret" not in str(caught.value)


@pytest.mark.parametrize("arn", ["events", "arn:aws:sqs:eu-west-1:1:events", None, f"{TOPIC} "])
def test_wrong_topic_is_named(arn: Any) -> None:
    """What is no ARN of a topic is an error of the settings, and of a publish call."""
    with pytest.raises(BackendConfigurationError, match="topic_arn"):
        SNSBackend(alias="default", topic_arn=arn)
    with pytest.raises(InvalidPublisherConfig, match="topic_arn"):
        SNSBackend(alias="default", topic_arn=TOPIC).validate_config({"topic_arn": arn})


def test_config_that_boto_does_not_know_is_an_error_of_the_settings() -> None:
    """A misspelt key in `client`'s `config` is found as soon as the client is made."""
    backend = SQSBackend(alias="default", queue_url=QUEUE, client={"config": {"no_such": 1}})
    with pytest.raises(BackendConfigurationError, match=r"\['client'\].*no_such"):
        backend.open()


@pytest.mark.parametrize(
    ("url", "region"),
    [
        (QUEUE, "eu-west-1"),
        ("https://sqs-fips.us-gov-west-1.amazonaws.com/1/a", "us-gov-west-1"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/1/a", "cn-north-1"),
        ("https://eu-central-1.queue.amazonaws.com/1/a", "eu-central-1"),
        ("http://localhost:4566/1/a", ""),
    ],
)
def test_region_is_the_one_in_the_address(url: str, region: str) -> None:
    """The region need not be given where the queue's address has it."""
    assert SQSBackend(alias="default", queue_url=url).region() == region


def test_client_has_the_regions_and_limits_of_the_options() -> None:
    """The topic's region is used, botocore repeats nothing, and waits as long as we say."""
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    config = {"user_agent_extra": "shop", "retries": {"max_attempts": 9}, "read_timeout": 99}
    with closing(
        SNSBackend(alias="default", topic_arn=TOPIC, timeout=3, client={**keys, "config": config})
    ) as backend:
        backend.open()
        meta = backend.connection().client.meta
        assert meta.region_name == "eu-west-1"
        assert meta.config.retries["total_max_attempts"] == 1
        assert (meta.config.connect_timeout, meta.config.read_timeout) == (3, 3)
        assert meta.config.user_agent_extra == "shop"


@pytest.mark.shows(Fault.CREDENTIALS)
def test_no_credentials_are_unavailable(
    server: AWSServer, queue: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without credentials nothing is sent; once there are some, the same backend delivers."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = {"endpoint_url": server.url, "region_name": REGION}
    with closing(SQSBackend(alias="default", queue_url=queue, client=client)) as backend:
        with pytest.raises(BackendUnavailable, match="credentials"):
            backend.send(make_message(data=1))
        assert backend.health_check() is False
        (tmp_path / "credentials").write_text(
            "[default]\naws_access_key_id = k\naws_secret_access_key = s\n"
        )
        backend.send(make_message(data=1))


def test_no_region_is_unavailable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A region that is nowhere to be found costs no event."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    backend = SQSBackend(alias="default", queue_url="http://localhost/1/a")
    with pytest.raises(BackendUnavailable, match="region"):
        backend.open()


def test_forked_process_uses_a_client_of_its_own(
    make: MakeBackend, server: AWSServer, queue: str
) -> None:
    """A backend that was used before a fork delivers in the child, without the parent's threads."""
    backend = make()
    assert backend.send_batch([make_message(data=n) for n in range(30)]) == [None] * 30
    code = _in_child(lambda: backend.send_batch([make_message(data=n) for n in range(30)]))
    assert code == 0
    assert len(server.take(queue)) == 60


def _in_child(publish: Callable[[], list[Outcome]]) -> int:
    """Run in a fork; return its exit status, 0 if all was acknowledged."""
    import os
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork of several threads, on purpose
        child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if not any(publish()) else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_binding_has_the_names_of_kafka() -> None:
    """The prefix is one that a JSON path and a filter policy can have."""
    assert AWS.prefix == "ce_"
