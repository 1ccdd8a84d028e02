"""RabbitMQConsumer on a real server: what reaches which receiver, and in which order.

Messages are produced by pika, and by the official SDK of CloudEvents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pika
import pytest
from cloudevents.core.bindings import amqp, rabbitmq
from cloudevents.core.v1.event import CloudEvent as SDKEvent

from django_broadcaster.backends import MessageBackend, RabbitMQBackend
from django_broadcaster.backends.bindings import RABBITMQ
from django_broadcaster.consumers import Consumer, Delivery, RabbitMQConsumer
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import BackendConfigurationError, BackendUnavailable
from django_broadcaster.testing import ConsumerContract, ProducedMessage
from tests.support.rabbitmq_server import channel, depth, remove, shared_url, take
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

WAIT = 30.0  # seconds, at the most

MakeConsumer = Callable[..., RabbitMQConsumer]

KINDS: Mapping[str, Mapping[str, Any]] = {
    "classic queue": {"queue_arguments": {"x-queue-type": "classic"}},
    "quorum queue": {"queue_arguments": {"x-queue-type": "quorum"}},
    "exclusive consumer": {"exclusive": True},
}
"""The ways in which one receiver at a time is given messages, by name."""


@pytest.fixture
def name() -> Iterator[str]:
    """A name for a queue of one test."""
    name = f"test-{uuid4().hex}"
    yield name
    remove(shared_url(), name, f"{name}-2")


@pytest.fixture
def make(name: str) -> Iterator[MakeConsumer]:
    """Make consumers of the queue, which are closed at the end."""
    with ExitStack() as made:

        def make(**options: Any) -> RabbitMQConsumer:
            defaults = {"alias": "shop", "url": shared_url(), "queue": name, "heartbeat": 1}
            consumer = RabbitMQConsumer(**{**defaults, **options})
            made.callback(consumer.close)
            return consumer

        yield make


def produce(queue: str, numbers: Sequence[int]) -> None:
    """Send events with these numbers as their ids."""
    with channel(shared_url()) as producer:
        producer.confirm_delivery()
        for number in numbers:
            event = CloudEvent("order.placed", "/shop", id=str(number), data={"number": number})
            properties = pika.BasicProperties(
                content_type="application/cloudevents+json", delivery_mode=2
            )
            producer.basic_publish("", queue, event.to_json(), properties)


def read(
    consumer: RabbitMQConsumer, count: int, *, limit: int = 10, acknowledge: bool = False
) -> list[Delivery]:
    """Return at least that many deliveries; opens the consumer again as a receiver does."""
    found: list[Delivery] = []

    def is_complete() -> bool:
        try:
            new = consumer.receive(limit, 0.2)
            if acknowledge:
                consumer.acknowledge(new)
        except BackendUnavailable:
            consumer.open()
            return False
        found.extend(new)
        return len(found) >= count

    wait_until(is_complete, WAIT, f"{count} messages")
    return found


def stand_by(consumer: RabbitMQConsumer) -> None:
    """Open a consumer while another one is given the messages."""
    consumer.open()
    try:
        assert consumer.receive(10, 0) == []
    except BackendUnavailable as error:
        assert consumer.exclusive
        assert "exclusive use" in str(error)  # noqa: PT017  # one of two good outcomes


def numbers(deliveries: Sequence[Delivery]) -> list[int]:
    """The numbers of the events."""
    return [int(each.event.id) for each in deliveries if each.event is not None]


# --- The contract ------------------------------------------------------------------------------


class QueueContract(ConsumerContract):
    """A queue for each test on the shared server, through a proxy that can break off."""

    binding = RABBITMQ
    has_positions = False  # of AMQP 0-9-1, only streams have any
    wrong_options: Mapping[str, Any] = {
        "queue": "", "queue_arguments": 5, "durable": "yes", "declare": 1, "exchange": 5,
        "exclusive": "no", "url": "http://localhost", "username": 5,
        "password": 5, "login_method": "NONE", "tls": 5, "timeout": 0, "connect_timeout": "1",
        "heartbeat": 0, "prefetch": 0,
    }  # fmt: skip
    secret_options: Mapping[str, Any] = {"password": "hush-hush"}

    queue_type: str

    @pytest.fixture(autouse=True)
    def _queue(self, name: str) -> Iterator[None]:
        self.name = name
        parts = urlsplit(shared_url())
        with TcpProxy(parts.hostname or "", parts.port or 5672) as self.proxy:
            yield

    def make_consumer(self, **options: Any) -> Consumer:
        url = f"amqp://127.0.0.1:{self.proxy.port}"
        arguments = {"x-queue-type": self.queue_type}
        defaults: Mapping[str, Any] = {"queue": self.name, "queue_arguments": arguments}
        login = {} if "url" in options else {"url": url}
        return RabbitMQConsumer(**{**defaults, **login, **options})

    def produce(self, messages: Sequence[ProducedMessage]) -> None:
        with channel(shared_url()) as producer:
            producer.confirm_delivery()
            for each in messages:
                properties = pika.BasicProperties(
                    content_type=each.content_type or None,
                    headers=dict(each.headers) or None,
                    delivery_mode=2,
                )
                producer.basic_publish("", self.name, each.body or b"", properties)

    def make_backend(self, **options: Any) -> MessageBackend:
        place = {"url": shared_url(), "exchange": "", "routing_key": self.name}
        return RabbitMQBackend(**place, **options)

    def break_broker(self) -> AbstractContextManager[object]:
        return self.proxy.away()


class TestClassicQueue(QueueContract):
    """A classic queue with a single active consumer."""

    queue_type = "classic"


class TestQuorumQueue(QueueContract):
    """A quorum queue with a single active consumer."""

    queue_type = "quorum"


# --- Order -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_next_receiver_gets_unacknowledged_messages_first(
    make: MakeConsumer, name: str, kind: str
) -> None:
    """What the former one held comes first, in its order, and newer messages afterwards."""
    former, following = make(**KINDS[kind]), make(**KINDS[kind])
    former.open()
    produce(name, range(40))
    held = read(former, 20)
    stand_by(following)
    former.acknowledge([*held[:3], held[4]])
    former.close()
    assert numbers(read(following, 36, acknowledge=True)) == [3, *range(5, 40)]


@pytest.mark.parametrize("kind", KINDS)
def test_receiver_that_hangs_loses_its_messages_to_the_next_one(
    make: MakeConsumer, name: str, kind: str
) -> None:
    """Newer messages wait until the server ends the connection that sends no heartbeats."""
    former, following = make(**KINDS[kind]), make(**KINDS[kind])
    former.open()
    produce(name, range(10))
    held = read(former, 10)
    stand_by(following)
    produce(name, range(10, 30))
    assert numbers(read(following, 30, acknowledge=True)) == [*range(30)]
    with pytest.raises(BackendUnavailable):  # it goes on, and has lost the queue
        former.acknowledge(held)
    with pytest.raises(BackendUnavailable):
        former.receive(10, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_order_survives_several_takeovers(make: MakeConsumer, name: str, kind: str) -> None:
    """Each receiver is killed with unacknowledged messages, and the last one has all in order."""
    first = make(**KINDS[kind])
    first.open()
    produce(name, range(50))
    acknowledged = 0
    for taken in (3, 0, 7, 1):
        consumer = make(**KINDS[kind])
        first.close()
        consumer.open()
        held = read(consumer, 20)[:20]
        assert numbers(held) == [*range(acknowledged, acknowledged + 20)]
        consumer.acknowledge(held[:taken])
        acknowledged += taken
        first = consumer
    first.close()
    assert numbers(read(make_open(make, kind), 50 - acknowledged, acknowledge=True)) == [
        *range(acknowledged, 50)
    ]


def make_open(make: MakeConsumer, kind: str) -> RabbitMQConsumer:
    """Return one more open consumer."""
    consumer = make(**KINDS[kind])
    consumer.open()
    return consumer


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
@pytest.mark.parametrize("options", [{}, {"durable": True}])
def test_ordered_consumer_refuses_a_queue_that_is_shared(
    make: MakeConsumer, name: str, queue_type: str, options: Mapping[str, Any]
) -> None:
    """The server would give newer messages to another receiver; the error says what to do."""
    arguments = {"x-queue-type": queue_type}
    with channel(shared_url()) as setup:
        setup.queue_declare(name, durable=True, arguments=arguments)
    with pytest.raises(BackendConfigurationError) as caught:
        make(queue_arguments=arguments, **options).open()
    for part in ("OUTBOX_CONSUMERS['shop']['OPTIONS']", name, "x-single-active-consumer"):
        assert part in str(caught.value)
    assert "'ordered': False" in str(caught.value)
    make(queue_arguments=arguments, ordered=False).open()


def test_exclusive_consumer_refuses_a_quorum_queue(make: MakeConsumer, name: str) -> None:
    """A quorum queue ignores that a consumer is exclusive, which the consumer finds out."""
    consumer = make(exclusive=True, queue_arguments={"x-queue-type": "quorum"})
    consumer.open()
    with pytest.raises(BackendConfigurationError, match=r"'exclusive'.*only classic queues"):
        consumer.receive(10, 0)


def test_queue_that_is_not_declared_must_be_said_to_be_ordered() -> None:
    """Whoever may not declare queues says how the queue was created."""
    options: Mapping[str, Any] = {"alias": "shop", "queue": "orders", "declare": False}
    with pytest.raises(BackendConfigurationError, match=r"'queue_arguments'.*can't check"):
        RabbitMQConsumer(**options)
    RabbitMQConsumer(**options, queue_arguments={"x-single-active-consumer": True})
    RabbitMQConsumer(**options, exclusive=True)
    RabbitMQConsumer(**options, ordered=False)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"binding_key": "a"}, "'binding_key'.*has no effect without 'exchange'"),
        ({"exchange": "e", "binding_key": 5}, "'binding_key'.*a string or a list"),
        (
            {"exchange": "e", "declare": False, "exclusive": True},
            "'exchange'.*has no effect with 'declare': False",
        ),
        (
            {"exclusive": True, "queue_arguments": {"x-single-active-consumer": True}},
            "'exclusive'.*can't be combined",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: Mapping[str, Any], text: str
) -> None:
    """Nothing that is set is ignored silently."""
    with pytest.raises(BackendConfigurationError, match=text):
        RabbitMQConsumer(alias="shop", queue="orders", **options)


def test_receivers_of_an_unordered_queue_share_its_messages(make: MakeConsumer, name: str) -> None:
    """Each of two receivers is given messages, and together they have each one once."""
    consumers = [make(ordered=False) for _ in range(2)]
    for consumer in consumers:
        consumer.open()
        assert consumer.receive(10, 0) == []
    produce(name, range(40))
    shares = [numbers(read(consumer, 20)) for consumer in consumers]
    assert sorted(shares[0] + shares[1]) == [*range(40)]


# --- Streams -----------------------------------------------------------------------------------


def test_streams_are_refused(make: MakeConsumer, name: str) -> None:
    """The server does not record how far a stream was read: the error says so at once."""
    with pytest.raises(BackendConfigurationError, match=r"'queue_arguments'.*is a stream"):
        make(queue_arguments={"x-queue-type": "stream"})
    with channel(shared_url()) as setup:
        setup.queue_declare(name, durable=True, arguments={"x-queue-type": "stream"})
    with pytest.raises(BackendConfigurationError, match=r"'queue'.*is a stream"):
        make().open()
    produce(name, range(1))
    consumer = make(declare=False, queue_arguments={"x-single-active-consumer": True})
    consumer.open()
    with channel(shared_url()) as producer:
        producer.basic_publish("", name, b"")
    with pytest.raises(BackendConfigurationError, match=r"'queue'.*is a stream"):
        wait_until(lambda: published_and_received(consumer, name), WAIT, "a message of the stream")


def published_and_received(consumer: RabbitMQConsumer, queue: str) -> list[Delivery]:
    """Send a message and receive: a stream begins with what comes after its reader."""
    produce(queue, range(1))
    return consumer.receive(10, 0.1)


# --- Redelivery and dead letters ---------------------------------------------------------------


def test_rejected_message_reaches_the_dead_letter_exchange(make: MakeConsumer, name: str) -> None:
    """The server keeps a message that no row can hold, if the queue has such an exchange."""
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{name}-2"}
    with channel(shared_url()) as setup:
        setup.queue_declare(f"{name}-2")
    consumer = make(queue_arguments=arguments)
    consumer.open()
    produce(name, range(3))
    deliveries = read(consumer, 3)
    consumer.reject(deliveries[1])
    consumer.acknowledge(deliveries)
    consumer.close()
    wait_until(lambda: depth(shared_url(), f"{name}-2") == 1, WAIT, "the dead letter")
    (kept,) = take(shared_url(), f"{name}-2")
    assert kept.body == deliveries[1].message.body
    assert depth(shared_url(), name) == 0


def test_repeated_delivery_of_a_quorum_queue_is_warned_of(
    make: MakeConsumer, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A message that receivers never acknowledge reaches a limit; the log says so before."""
    consumer = make(queue_arguments={"x-queue-type": "quorum"})
    consumer.open()
    produce(name, range(1))
    for _ in range(10):
        (delivery,) = read(consumer, 1)
        consumer.close()
        consumer.open()
    assert "delivery limit" not in caplog.text
    (again,) = read(consumer, 1)
    assert again.message.identity == delivery.message.identity
    assert f"message of queue '{name}' 10 times" in caplog.text


def test_deleted_queue_is_unavailable(make: MakeConsumer, name: str) -> None:
    """The server's notice reaches the receiver, which opens the consumer again."""
    consumer = make()
    consumer.open()
    assert consumer.receive(10, 0) == []
    remove(shared_url(), name)
    with pytest.raises(BackendUnavailable, match=f"ended the consumer of queue '{name}'"):
        wait_until(lambda: consumer.receive(10, 0.1), WAIT, "the notice")
    consumer.open()
    produce(name, range(1))
    assert numbers(read(consumer, 1)) == [0]


def test_slow_database_costs_no_connection(make: MakeConsumer, name: str) -> None:
    """While `extend` is called, heartbeats are sent; without it the connection is lost."""
    consumer, silent = make(), make(queue=f"{name}-2")
    for each in (consumer, silent):
        each.open()
        produce(each.queue, range(5))
        read(each, 5)
    consumer.close()
    consumer.open()
    deliveries = read(consumer, 5)

    def is_cut_off() -> bool:
        consumer.extend(deliveries)
        return depth(shared_url(), silent.queue) == 5

    wait_until(is_cut_off, WAIT, "the silent consumer has lost its messages")
    consumer.acknowledge(deliveries)
    consumer.close()
    assert depth(shared_url(), name) == 0


# --- Messages ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["binary", "structured"])
@pytest.mark.parametrize("binding", ["amqp", "rabbitmq"])
def test_events_of_the_official_sdk_are_received(
    make: MakeConsumer, name: str, binding: str, mode: str
) -> None:
    """Both bindings of the SDK are read, in both content modes."""
    time = datetime(2026, 11, 30, 7, 20, tzinfo=UTC)
    sent = SDKEvent(
        {
            "id": "1",
            "source": "/sdk",
            "type": "order.placed",
            "specversion": "1.0",
            "time": time,
            "datacontenttype": "application/json",
            "partitionkey": "Zoë",
        },
        {"total": 12.5},
    )
    made = getattr(amqp if binding == "amqp" else rabbitmq, f"to_{mode}_event")(sent)
    consumer = make()
    consumer.open()
    with channel(shared_url()) as producer:
        producer.basic_publish("", name, *sdk_message(made))
    (delivery,) = read(consumer, 1)
    assert delivery.problem == ""
    event = delivery.event
    assert event is not None
    assert (event.id, event.source, event.type) == ("1", "/sdk", "order.placed")
    assert (event.time, event.partition_key, event.data) == (time, "Zoë", {"total": 12.5})


def test_properties_are_headers_of_the_message(make: MakeConsumer, name: str) -> None:
    """A `decode` function finds the properties by their names in AMQP, all as text."""
    received: list[Mapping[str, str]] = []

    def decode(message: Any) -> CloudEvent:
        received.append({**message.headers, "content_type": message.content_type})
        return CloudEvent("order.placed", "/legacy", id=message.headers["message_id"])

    consumer = make(decode=decode)
    consumer.open()
    headers = {
        "text": "Zoë", "number": 7, "flag": True, "bytes": b"\xff", "nothing": None,
        "time": datetime(2026, 11, 30, tzinfo=UTC), "table": {"a": [1, "b"]},
        "fraction": Decimal("0.5"),
    }  # fmt: skip
    properties = pika.BasicProperties(
        content_type="text/plain", message_id="m-1", correlation_id="c-1", priority=3,
        timestamp=1764489600, type="kind", app_id="shop", reply_to="there", headers=headers,
        content_encoding="utf-8", delivery_mode=2,
    )  # fmt: skip
    with channel(shared_url()) as producer:
        producer.basic_publish("", name, b"order 7", properties)
    (delivery,) = read(consumer, 1)
    assert delivery.problem == ""
    assert received == [{
        "exchange": "", "routing_key": name, "content_type": "text/plain", "message_id": "m-1",
        "correlation_id": "c-1", "priority": "3", "timestamp": "1764489600", "type": "kind",
        "app_id": "shop", "reply_to": "there", "content_encoding": "utf-8", "delivery_mode": "2",
        "text": "Zoë", "number": "7", "flag": "true", "bytes": "\\xff", "nothing": "",
        "time": "2026-11-30T00:00:00Z", "table": '{"a":[1,"b"]}', "fraction": "0.5",
    }]  # fmt: skip


class UnreadableHeaders(pika.BasicProperties):
    """Properties with a header that no client of Python can read: a time after the year 9999."""

    def encode(self) -> list[bytes]:
        """Return the flags, and a table of one timestamp."""
        table = b"\x04whenT" + b"\x7f" * 8
        return [(1 << 13).to_bytes(2), len(table).to_bytes(4) + table]


def test_message_with_unreadable_headers_is_malformed(make: MakeConsumer, name: str) -> None:
    """The connection survives it, and the messages after it are received."""
    consumer = make()
    consumer.open()
    with channel(shared_url()) as producer:
        producer.basic_publish("", name, b"the body", UnreadableHeaders())
    produce(name, range(1))
    bad, good = read(consumer, 2)
    assert bad.message.body == b"the body"
    assert bad.problem.startswith("the headers can't be read")
    assert numbers([good]) == [0]


def test_queue_is_bound_to_an_exchange(make: MakeConsumer, name: str) -> None:
    """A missing exchange is named; then each key of the binding leads to the queue."""
    consumer = make(exchange=f"{name}-2", binding_key=["order.*", "stock.#"])
    with pytest.raises(BackendUnavailable, match=f"no exchange '{name}-2'.*declare exchange"):
        consumer.open()
    with channel(shared_url()) as producer:
        producer.exchange_declare(f"{name}-2", "topic")
        consumer.open()
        for key in ("order.placed", "stock.a.b", "other"):
            producer.basic_publish(f"{name}-2", key, b"")
    found = [each.message.headers["routing_key"] for each in read(consumer, 2)]
    assert found == ["order.placed", "stock.a.b"]
    assert consumer.lag() == 0


def sdk_message(message: Any) -> tuple[bytes, pika.BasicProperties]:
    """Return what pika sends for a message of the SDK."""
    if isinstance(message, amqp.AMQPMessage):
        headers, body = message.application_properties, message.application_data
        content_type = message.properties["content-type"]
    else:
        headers, body = dict(message.headers), message.body
        content_type = message.content_type
    return body, pika.BasicProperties(content_type=content_type, headers=headers)
