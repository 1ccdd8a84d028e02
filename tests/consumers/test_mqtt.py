"""MQTTConsumer on a real server: what reaches which receiver, and in which order.

Messages are produced by paho. The official SDK of CloudEvents has no binding for MQTT: its events
are sent in the JSON format.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any
from uuid import uuid4

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent as SDKEvent
from paho.mqtt import client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from django_broadcaster.backends import MessageBackend, MQTTBackend
from django_broadcaster.backends.bindings import MQTT
from django_broadcaster.backends.mqtt.packets import Packet
from django_broadcaster.consumers import Consumer, Delivery, MQTTConsumer
from django_broadcaster.consumers.mqtt.incoming import read_publish
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import BackendConfigurationError, BackendUnavailable
from django_broadcaster.testing import ConsumerContract, ProducedMessage
from tests.support.mosquitto_server import MosquittoServer, forget_session, mosquitto_server
from tests.support.scripted_mqtt import ScriptedMQTT, puback
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

WAIT = 30.0  # seconds, at the most

MakeConsumer = Callable[..., MQTTConsumer]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MosquittoServer]:
    """A server that limits neither what is in flight nor what waits."""
    folder = tmp_path_factory.mktemp("mosquitto")
    with mosquitto_server(folder, "max_inflight_messages 0") as running:
        yield running


@pytest.fixture
def topic() -> str:
    """A topic that no other test uses."""
    return f"test-{uuid4().hex}"


@pytest.fixture
def make(server: MosquittoServer, topic: str) -> Iterator[MakeConsumer]:
    """Make consumers of one session, which are closed at the end."""
    with ExitStack() as made:

        def make(**options: Any) -> MQTTConsumer:
            host, port = server.address
            defaults = {"alias": "shop", "topic": f"{topic}/#", "group": topic}
            consumer = MQTTConsumer(**{"host": host, "port": port, **defaults, **options})
            made.callback(consumer.close)
            return consumer

        yield make


def publish(server: MosquittoServer, topic: str, messages: Sequence[ProducedMessage]) -> None:
    """Send messages in order, and wait until the server has them."""
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.max_inflight_messages_set(0)
    client.connect(*server.address)
    client.loop_start()
    try:
        sent = [
            client.publish(topic, each.body, qos=1, properties=_properties(each))
            for each in messages
        ]
        for each in sent:
            each.wait_for_publish(WAIT)
    finally:
        client.disconnect()
        client.loop_stop()


def _properties(message: ProducedMessage) -> Properties:
    properties: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if message.content_type:
        properties.ContentType = message.content_type
    if message.headers:
        properties.UserProperty = list(message.headers.items())
    return properties  # type: ignore[no-any-return]


def produce(server: MosquittoServer, topic: str, numbers: Sequence[int]) -> None:
    """Send events with these numbers as their ids."""
    events = [CloudEvent("order.placed", "/shop", id=str(n), data={"n": n}) for n in numbers]
    kind = "application/cloudevents+json"
    messages = [ProducedMessage(body=each.to_json(), content_type=kind) for each in events]
    publish(server, f"{topic}/orders", messages)


def read(
    consumer: MQTTConsumer, count: int, *, limit: int = 10, acknowledge: bool = False
) -> list[Delivery]:
    """Return at least that many deliveries."""
    found: list[Delivery] = []

    def is_complete() -> bool:
        new = consumer.receive(limit, 0.2)
        if acknowledge:
            consumer.acknowledge(new)
        found.extend(new)
        return len(found) >= count

    wait_until(is_complete, WAIT, f"{count} messages")
    return found


def numbers(deliveries: Sequence[Delivery]) -> list[int]:
    """The numbers of the events."""
    return [int(each.event.id) for each in deliveries if each.event is not None]


def read_up_to(consumer: MQTTConsumer, last: int) -> list[Delivery]:
    """Return deliveries up to the event with that number, and acknowledge them."""
    found: list[Delivery] = []
    while not found or numbers(found)[-1] < last:
        found += read(consumer, 1, acknowledge=True)
    return found


def first_in_order(deliveries: Sequence[Delivery], earliest: int, latest: int) -> int:
    """Return the first number; all others follow it without a gap.

    A server that is taken over may not have read the last acknowledgements, and sends those again.
    """
    found = numbers(deliveries)
    assert found == [*range(found[0], found[0] + len(found))]
    assert earliest <= found[0] <= latest
    return found[0]


def opened(consumer: MQTTConsumer) -> MQTTConsumer:
    """Open a consumer, and return it."""
    consumer.open()
    return consumer


# --- The contract ------------------------------------------------------------------------------


class TestMQTTConsumer(ConsumerContract):
    """A session and a topic for each test, through a proxy that can break off."""

    binding = MQTT
    has_positions = False
    tells_lag = False
    wrong_options: Mapping[str, Any] = {
        "topic": "shop/#/orders", "group": "", "client_id": 5, "session_expiry": 0, "host": "",
        "port": 0, "username": 5, "tls": 5, "keepalive": -1, "timeout": 0,
    }  # fmt: skip
    secret_options: Mapping[str, Any] = {"password": "hush-hush"}

    @pytest.fixture(autouse=True)
    def _topic(self, server: MosquittoServer, topic: str) -> Iterator[None]:
        self.server, self.topic = server, topic
        with TcpProxy(*server.address) as self.proxy:
            yield

    def make_consumer(self, **options: Any) -> Consumer:
        place = {"host": "127.0.0.1", "port": self.proxy.port}
        names = {"topic": self.topic, "group": self.topic}
        if "password" in options:
            options.setdefault("username", "me")
        return MQTTConsumer(**{**place, **names, **options})

    def produce(self, messages: Sequence[ProducedMessage]) -> None:
        publish(self.server, self.topic, messages)

    def make_backend(self, **options: Any) -> MessageBackend:
        host, port = self.server.address
        return MQTTBackend(host=host, port=port, topic=self.topic, **options)

    def break_broker(self) -> AbstractContextManager[object]:
        return self.proxy.away()


# --- Order -------------------------------------------------------------------------------------


def test_next_receiver_gets_unacknowledged_messages_first(
    make: MakeConsumer, server: MosquittoServer, topic: str
) -> None:
    """The former one stalls; the next one is given what it held in its order, then the rest."""
    former, following = opened(make()), make()
    former.receive(10, 0)
    produce(server, topic, range(20))
    held = read(former, 20)
    former.acknowledge(held[:4])
    following.open()
    produce(server, topic, range(20, 40))
    first_in_order(read_up_to(following, 39), 0, 4)
    with pytest.raises(BackendUnavailable):  # it goes on, and has lost the session
        former.receive(10, WAIT)
    with pytest.raises(BackendUnavailable):
        former.acknowledge(held[4:])


@pytest.mark.parametrize("limits", [(10, 10, 10, 10), (10, 2, 5, 20)])
def test_order_survives_several_takeovers(
    make: MakeConsumer, server: MosquittoServer, topic: str, limits: Sequence[int]
) -> None:
    """Each receiver is replaced with messages unacknowledged; batches may differ in size."""
    opened(make())
    produce(server, topic, range(60))
    begin = end = 0  # of what the server may not have seen acknowledged
    for limit, taken in zip(limits, (3, 0, 7, 1), strict=True):
        consumer = opened(make())
        held = read(consumer, 2 * limit, limit=limit)
        begin = first_in_order(held, begin, end)
        consumer.acknowledge(held[:taken])
        end = begin + taken
    first_in_order(read_up_to(opened(make()), 59), begin, end)


def test_acknowledgements_are_sent_in_order(
    make: MakeConsumer, server: MosquittoServer, topic: str
) -> None:
    """One that would overtake another is sent after that, as the protocol demands."""
    consumer = opened(make())
    produce(server, topic, range(3))
    first, second, third = read(consumer, 3)
    consumer.acknowledge([third])
    consumer.acknowledge([second])
    consumer.close()
    first, second, third = read(opened(consumer), 3)
    assert numbers([first, second, third]) == [0, 1, 2]
    consumer.acknowledge([second])
    consumer.acknowledge([first])
    consumer.close()
    assert numbers(read(opened(consumer), 1)) == [2]


def test_receivers_of_a_shared_subscription_share_its_messages(
    make: MakeConsumer, server: MosquittoServer, topic: str
) -> None:
    """What the server gave to one that is away waits for the same client identifier."""
    consumers = [opened(make(ordered=False, client_id=f"{topic}-{n}")) for n in range(2)]
    for consumer in consumers:
        consumer.receive(10, 0)
    produce(server, topic, range(20))
    shares = [numbers(read(consumer, 10)) for consumer in consumers]
    assert sorted(shares[0] + shares[1]) == [*range(20)]
    consumers[0].close()
    again = make(ordered=False, client_id=f"{topic}-0")
    assert numbers(read(opened(again), 10)) == shares[0]


def test_unordered_consumer_needs_an_identifier_of_its_own() -> None:
    """Two receivers with one client identifier would cut each other off."""
    options: Mapping[str, Any] = {"alias": "shop", "topic": "a", "ordered": False}
    with pytest.raises(BackendConfigurationError, match=r"'client_id'.*must be given"):
        MQTTConsumer(**options, group="billing")
    with pytest.raises(BackendConfigurationError, match=r"'group'.*must not contain"):
        MQTTConsumer(**options, group="billing/a", client_id="billing-1")


# --- The session -------------------------------------------------------------------------------


def test_session_collects_messages_while_no_receiver_is_connected(
    make: MakeConsumer, server: MosquittoServer, topic: str
) -> None:
    """What is published between a close and an open is received."""
    opened(make()).close()
    produce(server, topic, range(5))
    assert numbers(read(opened(make()), 5)) == [*range(5)]


def test_session_that_the_server_has_lost_is_warned_of(
    make: MakeConsumer, server: MosquittoServer, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Messages in between are lost; the log says so, and later ones are received."""
    consumer = opened(make())
    consumer.close()
    consumer.open()
    consumer.close()
    assert caplog.text == ""
    forget_session(server.address, topic)
    produce(server, topic, range(1))
    consumer.open()
    assert f"has no session '{topic}' any more" in caplog.text
    produce(server, topic, range(1, 3))
    assert numbers(read(consumer, 2)) == [1, 2]


def test_redelivery_ends_with_the_session() -> None:
    """The check of the inbox's retention compares with the expiry of the session."""
    options: Mapping[str, Any] = {"alias": "shop", "topic": "a", "group": "billing"}
    assert MQTTConsumer(**options).redelivery_seconds == 7 * 24 * 3600
    assert MQTTConsumer(**options, session_expiry=60).redelivery_seconds == 60
    assert MQTTConsumer(**options, session_expiry=2**32 - 1).redelivery_seconds is None


def test_slow_database_costs_no_connection(
    make: MakeConsumer, server: MosquittoServer, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While `extend` is called, the server is asked; a silent connection is ended by it."""
    consumer, silent = opened(make(keepalive=1)), opened(make(keepalive=1, group=f"{topic}-2"))
    for each in (consumer, silent):
        each.receive(10, 0)
    produce(server, topic, range(5))
    deliveries = read(consumer, 5)

    def is_cut_off() -> bool:
        consumer.extend(deliveries)
        return silent._connection is not None and not is_connected(silent)

    wait_until(is_cut_off, WAIT, "the silent consumer is cut off")
    consumer.acknowledge(deliveries)
    consumer.close()
    assert opened(consumer).receive(10, 0.2) == []


def is_connected(consumer: MQTTConsumer) -> bool:
    """Whether the server has not ended a connection; it is asked nothing."""
    connection: Any = consumer._connection
    connection._sock.setblocking(False)
    try:
        return connection._sock.recv(2**16) != b""
    except BlockingIOError:
        return True


# --- Messages ----------------------------------------------------------------------------------


def test_events_of_the_official_sdk_are_received(
    make: MakeConsumer, server: MosquittoServer, topic: str
) -> None:
    """With and without the media type, which MQTT 3 does not have."""
    consumer = opened(make())
    sent = SDKEvent(
        {"id": "1", "source": "/sdk", "type": "order.placed", "specversion": "1.0"}, {"total": 7.5}
    )
    body = JSONFormat().write(sent)
    kind = "application/cloudevents+json; charset=utf-8"
    publish(
        server,
        f"{topic}/orders",
        [ProducedMessage(body=body, content_type=kind), ProducedMessage(body=body)],
    )
    for delivery in read(consumer, 2):
        assert delivery.problem == ""
        assert delivery.event is not None
        assert (delivery.event.id, delivery.event.source) == ("1", "/sdk")
        assert delivery.event.data == {"total": 7.5}
        assert delivery.message.origin == f"{topic}/orders"


def test_message_of_qos_0_is_received_once(
    make: MakeConsumer, server: MosquittoServer, topic: str
) -> None:
    """The server needs no acknowledgement for it, and does not deliver it again."""
    consumer = opened(make())
    consumer.receive(10, 0)
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.connect(*server.address)
    client.publish(f"{topic}/a", CloudEvent("a", "/b", id="7").to_json(), qos=0)
    client.loop()
    deliveries = read(consumer, 1)
    assert numbers(deliveries) == [7]
    consumer.acknowledge(deliveries)
    consumer.close()
    assert opened(consumer).receive(10, 0.2) == []
    client.disconnect()


def test_messages_of_qos_0_wait_at_the_server_while_the_database_is_slow(
    make: MakeConsumer, server: MosquittoServer, topic: str
) -> None:
    """They need no acknowledgement, and yet memory is bounded; the connection stays alive."""
    consumer = make(keepalive=2)
    consumer.open()
    assert consumer.receive(10, 0.0) == []
    assert consumer._connection is not None
    flood = [CloudEvent("t", "/s", "x" * 1000, id=str(n)).to_json() for n in range(20_000)]
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.connect(*server.address)
    client.loop_start()
    for number, body in enumerate(flood):
        client.publish(f"{topic}/flood", body, qos=0)
        if number % 100 == 0:
            consumer.extend([])  # as a receiver does each few seconds
    ends = time.monotonic() + 4  # twice `keepalive`, after which the server would disconnect

    def is_over() -> bool:
        consumer.extend([])
        return time.monotonic() > ends

    wait_until(is_over, WAIT, "the time is over")
    client.disconnect()
    client.loop_stop()
    assert 10 < len(consumer._connection.arrived) < 200
    assert numbers(consumer.receive(10, 1.0)) == list(range(10))
    assert numbers(read(consumer, 1000))[:1000] == list(range(10, 1010))


def test_retained_message_is_received_with_a_new_subscription_only(
    make: MakeConsumer, server: MosquittoServer, topic: str
) -> None:
    """Opening the session again does not deliver it again."""
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.connect(*server.address)
    client.loop_start()
    event = CloudEvent("a", "/b", id="7")
    client.publish(f"{topic}/a", event.to_json(), qos=1, retain=True).wait_for_publish(WAIT)
    client.disconnect()
    client.loop_stop()
    consumer = opened(make())
    deliveries = read(consumer, 1)
    assert numbers(deliveries) == [7]
    consumer.acknowledge(deliveries)
    consumer.close()
    assert opened(consumer).receive(10, 0.2) == []


def test_properties_are_headers_of_the_message(
    make: MakeConsumer, server: MosquittoServer, topic: str
) -> None:
    """A `decode` function finds user properties, and those of requests, as text."""
    received: list[Mapping[str, str]] = []

    def decode(message: Any) -> None:
        received.append({**message.headers, "content_type": message.content_type})

    consumer = opened(make(decode=decode))
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.connect(*server.address)
    client.loop_start()
    properties: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.ContentType = "text/plain"
    properties.UserProperty = [("sender", "Zoë")]
    properties.ResponseTopic = "answers"
    properties.CorrelationData = b"\xff7"
    properties.MessageExpiryInterval = 60
    properties.PayloadFormatIndicator = 1
    client.publish(f"{topic}/a", b"7", qos=1, properties=properties).wait_for_publish(WAIT)
    client.disconnect()
    client.loop_stop()
    (delivery,) = read(consumer, 1)
    assert (delivery.event, delivery.problem) == (None, "")
    assert received == [{
        "content_type": "text/plain", "sender": "Zoë", "response_topic": "answers",
        "correlation_data": "\\xff7",
    }]  # fmt: skip


@pytest.mark.parametrize(
    "properties",
    [b"\x7f\x00", b"\x03\x00\x09text", b"\x26\x00\x01a"],
    ids=["unknown property", "text that is cut off", "name without a value"],
)
def test_message_with_unreadable_properties_is_malformed(properties: bytes) -> None:
    """The message keeps its topic, its payload and its acknowledgement."""
    body = b"\x00\x01t\x00\x07" + bytes((len(properties),)) + properties + b"payload"
    message = read_publish(Packet(0x30, body, 0b0010))
    assert (message.topic, message.identifier, message.body) == ("t", 7, b"payload")
    assert message.problem.startswith("the properties can't be read")


@pytest.mark.parametrize(
    ("code", "error", "text"),
    [
        (0x00, BackendConfigurationError, "with QoS 0 only"),
        (0x87, BackendConfigurationError, "Not authorized"),
        (0x9E, BackendConfigurationError, "Shared subscription not supported"),
        (0x97, BackendUnavailable, "Quota exceeded"),
    ],
)
def test_refused_subscription_is_named(code: int, error: type[Exception], text: str) -> None:
    """The error has the topic, and the server's reason in words."""
    with ScriptedMQTT(puback, suback=code) as scripted:
        consumer = MQTTConsumer(
            alias="shop", topic="shop/orders", group="billing", port=scripted.port
        )
        with pytest.raises(error, match=rf"shop/orders.*{text}"):
            consumer.open()
        consumer.close()
