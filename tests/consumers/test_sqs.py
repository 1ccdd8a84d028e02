"""The SQS consumer against moto's server: the contract, message groups, and envelopes of SNS."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from typing import Any, ClassVar
from uuid import uuid4

import boto3
import pytest
from cloudevents.core.bindings import kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent as SDKEvent

from django_broadcaster.backends import MessageBackend, SNSBackend, SQSBackend
from django_broadcaster.backends.aws import entries
from django_broadcaster.backends.bindings import AWS, Binding, ContentMode
from django_broadcaster.consumers import Consumer, Delivery, SQSConsumer
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import BackendConfigurationError, BackendUnavailable
from django_broadcaster.testing import ConsumerContract, ProducedMessage, make_message
from django_broadcaster.testing.consumer_contract import MALFORMED
from tests.backends.test_aws import client_options, server
from tests.support.aws_server import ACCOUNT, REGION, AWSServer, RefusingProxy, Whole
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

__all__ = ["server"]  # a fixture

SECONDS = 30.0

MakeConsumer = Callable[..., SQSConsumer]


@pytest.fixture
def queue(server: AWSServer, request: pytest.FixtureRequest) -> str:
    """A queue that no other test uses; FIFO unless a test asks for `.std`."""
    return server.make_queue(f"c{uuid4().hex}{getattr(request, 'param', '.fifo')}")


@pytest.fixture
def make(server: AWSServer, queue: str) -> Iterator[MakeConsumer]:
    """Make open consumers, which are closed at the end."""
    with ExitStack() as made:

        def make(**options: Any) -> SQSConsumer:
            defaults = {"queue_url": queue, "client": client_options(server.url)}
            consumer = SQSConsumer(**{"alias": "orders", **defaults, **options})
            made.callback(consumer.close)
            consumer.open()
            return consumer

        yield make


def send(url: str, queue: str, messages: Sequence[Mapping[str, Any]]) -> None:
    """Send messages in order, by calls of boto3 with up to ten."""
    with closing(boto3.client("sqs", **client_options(url))) as sqs:
        for start in range(0, len(messages), 10):
            entries = [
                {"Id": str(n), **each} for n, each in enumerate(messages[start : start + 10])
            ]
            answer = sqs.send_message_batch(QueueUrl=queue, Entries=entries)
            assert not answer.get("Failed")


def attributes_of(headers: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Attributes in the terms of the API."""
    return {name: {"DataType": "String", "StringValue": value} for name, value in headers.items()}


def fifo(group: str) -> dict[str, str]:
    """What a message of a FIFO queue needs."""
    return {"MessageGroupId": group, "MessageDeduplicationId": uuid4().hex}


def produce_numbers(server: AWSServer, queue: str, group: str, *numbers: int) -> None:
    """Send an event for each number, without attributes."""
    events = [CloudEvent("t", "/s", id=str(n)).to_json().decode() for n in numbers]
    send(server.url, queue, [{"MessageBody": each, **fifo(group)} for each in events])


def numbers(deliveries: Sequence[Delivery]) -> list[int]:
    """The numbers of the events."""
    return [int(each.event.id) for each in deliveries if each.event is not None]


def receive(consumer: SQSConsumer, count: int) -> list[Delivery]:
    """Receive that many messages, without deleting any."""
    deliveries: list[Delivery] = []

    def is_enough() -> bool:
        deliveries.extend(consumer.receive(100, 0.2))
        return len(deliveries) >= count

    wait_until(is_enough, SECONDS, f"{count} messages are received")
    assert len(deliveries) == count
    return deliveries


# --- The contract ------------------------------------------------------------------------------


class TestStandard(ConsumerContract):
    """A standard queue, through a proxy, so that the server can be away."""

    binding = AWS
    keeps_order = False
    large = 150_000
    wrong_options = {
        "queue_url": "ftp://host/queue",
        "visibility_timeout": 0,
        "ordered": True,
        "username": 5,
        "client": {"no_such": 1},
        "tls": "yes",
        "timeout": 0,
        "connections": 0,
    }
    malformed: ClassVar[Mapping[str, ProducedMessage]] = {
        # Neither can be in a queue: it holds text, of one character at least.
        name: message
        for name, message in MALFORMED.items()
        if name not in ("no bytes", "not UTF-8")
    }
    suffix = ""

    @pytest.fixture(autouse=True)
    def _server(self, server: AWSServer) -> Iterator[None]:
        self.server = server
        self.queue_url = server.make_queue(f"c{uuid4().hex}{self.suffix}")
        with TcpProxy("127.0.0.1", server.port) as self.proxy:
            yield

    def make_consumer(self, **options: Any) -> Consumer:
        client = client_options(f"http://127.0.0.1:{self.proxy.port}")
        defaults = {"queue_url": self.queue_url, "client": client}
        return SQSConsumer(**{**defaults, **options})

    def make_backend(self, **options: Any) -> MessageBackend:
        client = client_options(self.server.url)
        return SQSBackend(queue_url=self.queue_url, client=client, **options)

    def produce(self, messages: Sequence[ProducedMessage]) -> None:
        send(self.server.url, self.queue_url, [self._entry(each) for each in messages])

    def _entry(self, message: ProducedMessage) -> dict[str, Any]:
        headers = dict(message.headers)
        if message.content_type:
            headers["content-type"] = message.content_type
        body = (message.body or b"").decode()
        return {"MessageBody": body, "MessageAttributes": attributes_of(headers)}

    def break_broker(self) -> AbstractContextManager[object]:
        return self.proxy.away()

    # Events that SQS can't hold in binary mode are sent structured, as the backend does.

    def produced(
        self, event: CloudEvent, mode: ContentMode = "structured", key: str = "key"
    ) -> ProducedMessage:
        return super().produced(event, fitting(event, mode), key)

    def _expected(self, event: CloudEvent, mode: ContentMode, binding: Binding) -> str:
        return super()._expected(event, fitting(event, mode), binding)

    @pytest.mark.slow
    def test_many_messages_are_acknowledged_at_once(self, consumer: Consumer) -> None:
        super().test_many_messages_are_acknowledged_at_once(consumer)

    # What a lost connection had comes again after the visibility timeout, and newer messages first.
    test_receiving_goes_on_when_the_broker_is_back = None  # type: ignore[assignment]


def fitting(event: CloudEvent, mode: ContentMode) -> ContentMode:
    """The mode in which an event is in a queue."""
    attributes = entries.write(make_message(event), mode).attributes
    return "binary" if "ce_id" in attributes else "structured"


class TestFifo(TestStandard):
    """A FIFO queue. Each message has a group of its own: a group waits for acknowledgements."""

    suffix = ".fifo"
    wrong_options = {**TestStandard.wrong_options, "ordered": 1}

    # Of 1,000 groups, moto finds the next one in a second.
    test_many_messages_are_acknowledged_at_once = None  # type: ignore[assignment]

    def make_backend(self, **options: Any) -> MessageBackend:
        pytest.skip("its events are of one group; another test receives them")

    def _entry(self, message: ProducedMessage) -> dict[str, Any]:
        return {**super()._entry(message), **fifo(uuid4().hex)}


# --- Message groups ----------------------------------------------------------------------------


def test_group_is_given_to_one_receiver_at_a_time(
    make: MakeConsumer, server: AWSServer, queue: str
) -> None:
    """While messages of a group are unacknowledged, nobody is given later ones; others go on."""
    first, second = make(), make()
    produce_numbers(server, queue, "a", *range(3))
    deliveries = receive(first, 3)
    assert numbers(deliveries) == [0, 1, 2]
    produce_numbers(server, queue, "a", 3)
    produce_numbers(server, queue, "b", 100)
    others = receive(second, 1)
    assert numbers(others) == [100]
    assert first.receive(10, 0.0) == second.receive(10, 0.0) == []
    first.acknowledge(deliveries)
    assert numbers(receive(second, 1)) == [3]
    assert [each.message.key for each in (*deliveries, *others)] == ["a", "a", "a", "b"]


@pytest.mark.parametrize("ends", ["closed", "killed"])
def test_next_receiver_is_given_the_messages_of_the_former_one_first(
    make: MakeConsumer, server: AWSServer, queue: str, ends: str
) -> None:
    """At once if the former receiver closed; if it was killed, after the visibility timeout."""
    former = make(visibility_timeout=60 if ends == "closed" else 1)
    produce_numbers(server, queue, "a", *range(8))
    deliveries = receive(former, 8)
    former.acknowledge(deliveries[:3])
    produce_numbers(server, queue, "a", 8)
    if ends == "closed":
        former.close()
    assert numbers(receive(make(), 6)) == [3, 4, 5, 6, 7, 8]


def test_events_of_the_backend_arrive_in_the_order_of_their_keys(
    make: MakeConsumer, server: AWSServer, queue: str
) -> None:
    """What `SQSBackend` publishes is read with its keys, one batch after the other."""
    messages = [make_message(data=n, partition_key=f"key-{n % 2}") for n in range(40)]
    client = client_options(server.url)
    with closing(SQSBackend(alias="default", queue_url=queue, client=client)) as backend:
        assert backend.send_batch(messages) == [None] * 40
    consumer, received = make(), []

    def is_complete() -> bool:
        deliveries = consumer.receive(100, 0.2)
        consumer.acknowledge(deliveries)
        received.extend(deliveries)
        return len(received) >= 40

    wait_until(is_complete, SECONDS, "all events are received")
    for key in ("key-0", "key-1"):
        expected = [message.event_id for message in messages if message.partition_key == key]
        of_key = [each.event for each in received if each.message.key == key]
        assert [event.id for event in of_key if event is not None] == expected
        assert {event.partition_key for event in of_key if event is not None} == {key}


def test_extend_keeps_messages_from_being_delivered_again(
    make: MakeConsumer, server: AWSServer, queue: str
) -> None:
    """Messages that are extended stay invisible after the visibility timeout."""
    first, second = make(visibility_timeout=1), make()
    produce_numbers(server, queue, "a", 0, 1)
    deliveries = receive(first, 2)
    for _ in range(20):
        first.extend(deliveries)
        assert second.receive(10, 0.0) == []
        threading.Event().wait(0.1)  # two seconds together, while the timeout is one
    first.acknowledge(deliveries)
    assert second.lag() == 0


def test_late_acknowledgement_is_left_out(
    make: MakeConsumer, server: AWSServer, queue: str
) -> None:
    """A receipt that is no longer valid raises nothing; the others are deleted."""
    consumer = make()
    produce_numbers(server, queue, "a", 0, 1)
    deliveries = receive(consumer, 2)
    consumer.acknowledge(deliveries[:1])
    consumer.acknowledge(deliveries)
    assert consumer.lag() == 0


# --- Queues ------------------------------------------------------------------------------------


def test_order_depends_on_the_queue() -> None:
    """A FIFO queue is shared by its groups; a standard queue has no order."""
    url = f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/events"
    queue = SQSConsumer(alias="orders", queue_url=f"{url}.fifo")
    assert (queue.ordered, queue.shares_by_key) == (True, True)
    standard = SQSConsumer(alias="orders", queue_url=url)
    assert (standard.ordered, standard.shares_by_key) == (False, False)
    with pytest.raises(BackendConfigurationError, match=r"\['ordered'\].*FIFO queue"):
        SQSConsumer(alias="orders", queue_url=url, ordered=True)


@pytest.mark.parametrize("queue", [".fifo"], indirect=True)
def test_redelivery_seconds_are_the_retention_of_the_queue(
    make: MakeConsumer, server: AWSServer, queue: str
) -> None:
    """After that time the queue deletes a message."""
    assert make().redelivery_seconds == 345_600
    other = server.make_queue(f"c{uuid4().hex}", MessageRetentionPeriod="3600")
    assert make(queue_url=other).redelivery_seconds == 3600


def test_missing_queue_is_named(make: MakeConsumer, queue: str) -> None:
    """The service counts as unavailable, since the queue may be created later."""
    missing = queue.replace("/c", "/missing-")
    with pytest.raises(BackendUnavailable, match=r"missing-.*create the queue"):
        make(queue_url=missing)


def test_user_who_may_not_read_attributes(server: AWSServer, queue: str) -> None:
    """Receiving and deleting work; lag and retention are unknown, and the health check is True."""
    with RefusingProxy(server) as proxy:
        client = client_options(proxy.url)
        consumer = SQSConsumer(alias="orders", queue_url=queue, client=client)
        with closing(consumer):
            proxy.whole = lambda _: Whole("AccessDenied", status=403)
            consumer.open()
            assert (consumer.lag(), consumer.redelivery_seconds) == (None, None)
            assert consumer.health_check() is True
            proxy.whole = lambda _: None
            produce_numbers(server, queue, "a", 1)
            consumer.acknowledge(receive(consumer, 1))
            assert consumer.lag() == 0


@pytest.mark.parametrize("fault", [True, False])
def test_entry_that_is_not_deleted(
    make: MakeConsumer, server: AWSServer, queue: str, fault: bool
) -> None:
    """An invalid receipt is left out; a fault of the service is an error, and nothing is lost."""
    failed = {"Id": "1", "Code": "InternalError", "SenderFault": fault, "Message": "no"}
    produce_numbers(server, queue, "a", 0, 1)
    with RefusingProxy(server) as proxy:
        consumer = make(client=client_options(proxy.url))
        deliveries = receive(consumer, 2)
        proxy.whole = lambda _: json.dumps({"Successful": [], "Failed": [failed]}).encode()
        if fault:
            consumer.acknowledge(deliveries)
        else:
            with pytest.raises(BackendUnavailable, match="InternalError"):
                consumer.acknowledge(deliveries)
        proxy.whole = lambda _: None
        assert consumer.lag() == 2


# --- Producers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_events_of_the_sdk_are_received(
    make: MakeConsumer, server: AWSServer, queue: str, mode: str
) -> None:
    """An event that the official SDK wrote for Kafka arrives with its attributes and data."""
    attributes = {"type": "order.placed", "source": "/shop", "id": "1", "subject": "Größe"}
    event = SDKEvent({**attributes, "datacontenttype": "application/json"}, {"größe": 7})
    write = kafka.to_structured if mode == "structured" else kafka.to_binary
    written = write(event, JSONFormat())
    headers = {name: value.decode() for name, value in written.headers.items()}
    message = {"MessageBody": written.value.decode(), "MessageAttributes": attributes_of(headers)}
    send(server.url, queue, [{**message, **fifo("a")}])
    (delivery,) = receive(make(), 1)
    assert delivery.event is not None, delivery.problem
    found = delivery.event.to_dict()
    assert {name: found[name] for name in attributes} == attributes
    assert found["data"] == {"größe": 7}


@pytest.mark.parametrize("raw", ["true", "false"])
@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_notification_of_sns_is_unwrapped(
    make: MakeConsumer, server: AWSServer, queue: str, mode: ContentMode, raw: str
) -> None:
    """The event arrives with and without raw delivery."""
    client, name = client_options(server.url), queue.rpartition("/")[2]
    with closing(boto3.client("sns", **client)) as sns:
        topic = sns.create_topic(Name=name, Attributes={"FifoTopic": "true"})["TopicArn"]
        sns.subscribe(
            TopicArn=topic,
            Protocol="sqs",
            Endpoint=f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}",
            Attributes={"RawMessageDelivery": raw},
        )
    message = make_message(data={"größe": 7}, partition_key="a")
    options = {"topic_arn": topic, "client": client, "content_mode": mode}
    with closing(SNSBackend(alias="default", **options)) as backend:
        assert backend.send_batch([message]) == [None]
    (delivery,) = receive(make(), 1)
    assert delivery.event is not None, delivery.problem
    found, sent = delivery.event.to_dict(), message.event.to_dict()
    assert {**found, "datacontenttype": ""} == {**sent, "datacontenttype": ""}
    assert ("ce_id" in delivery.message.headers) is (mode == "binary")


@pytest.mark.parametrize(
    "body",
    [
        '{"TopicArn": 1}',
        '["TopicArn"]',
        '{"Type": "Notification", "TopicArn": "a", "Message": 5}',
        '{"Type": "Notification", "TopicArn": "a", "Message": {}, "MessageAttributes": 5}',
        '{"TopicArn"',
    ],
)
def test_message_that_only_looks_like_a_notification_is_left_as_it_is(
    make: MakeConsumer, server: AWSServer, queue: str, body: str
) -> None:
    """The message has its own body and a problem."""
    send(server.url, queue, [{"MessageBody": body, **fifo("a")}])
    (delivery,) = receive(make(), 1)
    assert delivery.message.body == body.encode()
    assert delivery.problem


def test_attributes_are_headers(make: MakeConsumer, server: AWSServer, queue: str) -> None:
    """Numbers and bytes arrive as text; the position is the id of the message."""
    attributes = {
        "n": {"DataType": "Number", "StringValue": "7"},
        "b": {"DataType": "Binary", "BinaryValue": "ä".encode()},
        "t": {"DataType": "String.custom", "StringValue": "Zoë"},
    }
    send(server.url, queue, [{"MessageBody": "x", "MessageAttributes": attributes, **fifo("a")}])
    (delivery,) = receive(make(), 1)
    message = delivery.message
    assert message.headers == {"n": "7", "b": "ä", "t": "Zoë"}
    assert message.origin == queue.rpartition("/")[2]
    assert len(message.position) == 36
