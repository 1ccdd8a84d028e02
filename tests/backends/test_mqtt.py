"""The MQTT backend against the shared server: what arrives, where, and in which order."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from cloudevents.core.bindings import http
from cloudevents.core.formats.json import JSONFormat
from django.db import transaction
from django.test import override_settings
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from django_broadcaster.backends import Message, MessageBackend, MQTTBackend
from django_broadcaster.backends.bindings import canonical
from django_broadcaster.backends.in_flight import KeyOrder
from django_broadcaster.backends.mqtt.connection import Connection
from django_broadcaster.backends.mqtt.packets import Outgoing, Packet, Reader, properties, variable
from django_broadcaster.backends.mqtt.sender import TURN
from django_broadcaster.backends.names import escape_level
from django_broadcaster.backends.outcomes import MessageBatch
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    Held,
    InvalidPublisherConfig,
    Rejected,
    TransientError,
)
from django_broadcaster.models import OutboxEvent, OutboxEventStatus
from django_broadcaster.publishers import publisher
from django_broadcaster.relay.backend_thread import WorkerOptions
from django_broadcaster.relay.worker import Worker
from django_broadcaster.testing import BackendContract, make_message
from tests.events.strategies import EVENTS as ANY_EVENT
from tests.support.batches import kinds, numbers
from tests.support.conformance import assert_long_line_shows_signs_of_life, assert_same_event
from tests.support.mosquitto_server import (
    Arrived,
    Subscriber,
    forget_retained,
    members,
    mosquitto_server,
    shared_address,
    subscriber,
)
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

MakeBackend = Callable[..., MQTTBackend]


@pytest.fixture
def root() -> str:
    """A topic that nobody else uses on the shared server."""
    return f"test/{uuid4().hex}"


@pytest.fixture
def reader(root: str) -> Iterator[Subscriber]:
    """A subscriber to all that is under the topic."""
    with subscriber(shared_address(), root) as running:
        yield running


@pytest.fixture
def make(root: str) -> Iterator[MakeBackend]:
    """Make backends on the shared server, which are closed at the end."""
    host, port = shared_address()
    with ExitStack() as made:

        def make(**options: Any) -> MQTTBackend:
            defaults = {"host": host, "port": port, "topic": f"{root}/{{type}}"}
            backend = MQTTBackend(alias="default", **{**defaults, **options})
            made.callback(backend.close)
            return backend

        yield make


def ids(arrived: Sequence[Arrived]) -> list[str]:
    """The event ids of what arrived in structured mode."""
    return [each.event["id"] for each in arrived]


# --- The contract ------------------------------------------------------------------------------


class TestStructured(BackendContract):
    """Through a proxy, so that the shared server can be away."""

    config = {"topic": "some/where", "retain": True}
    mode = "structured"

    @pytest.fixture(autouse=True)
    def _server(self, root: str, reader: Subscriber) -> Iterator[None]:
        self.root, self.reader = root, reader
        with TcpProxy(*shared_address()) as self.proxy:
            yield

    def make_backend(self, **options: Any) -> MessageBackend:
        server = {"host": "127.0.0.1", "port": self.proxy.port}
        return MQTTBackend(topic=f"{self.root}/x", content_mode=self.mode, **server, **options)

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        return [self.members(each) for each in self.reader.read()]

    def members(self, message: Arrived) -> Mapping[str, Any]:
        """What arrived as members of the JSON format."""
        assert message.content_type == "application/cloudevents+json"
        found: dict[str, Any] = message.event
        assert message.headers.keys() == found.keys() & {"traceparent", "tracestate"}
        return found

    def break_broker(self) -> AbstractContextManager[object]:
        return self.proxy.away()


class TestBinary(TestStructured):
    """In binary mode attributes are text, and data is bytes: that is what is compared."""

    mode = "binary"

    def members(self, message: Arrived) -> Mapping[str, Any]:
        return members(message)

    def _arrived(self, messages: Sequence[Message]) -> None:
        assert self.read_back() == [_binary_members(message) for message in messages]


def _binary_members(message: Message) -> Mapping[str, Any]:
    """What a message is in binary mode, by the specification's words.

    An event without data has an empty payload and, as it has no media type, no content type.
    """
    expected = {
        key: canonical(value)
        for key, value in message.event.to_dict().items()
        if key not in ("data", "data_base64")
    }
    if message.data_binary is not None:
        return {**expected, "data": message.data_binary}
    if message.data_json is None:
        return expected
    content_type = expected.setdefault("datacontenttype", "application/json")
    text = message.data_json if "json" in content_type else json.loads(message.data_json)
    return {**expected, "data": text.encode()}


# --- What arrives ------------------------------------------------------------------------------


@pytest.mark.shows("read by the official SDK, packets of the specification")
@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_official_sdk_reads_every_event(
    make: MakeBackend, root: str, reader: Subscriber, mode: str
) -> None:
    """Whatever an event is, the CloudEvents SDK finds the same in what arrived.

    It has no binding for MQTT. That of HTTP differs in the names only, and both in nothing else.
    The subscriber's library refuses U+FEFF in a property, which MQTT allows.
    """
    backend = make(content_mode=mode)
    events_of_mqtt = ANY_EVENT.filter(lambda event: "\ufeff" not in event.to_json().decode())

    @settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(events_of_mqtt, min_size=20, max_size=40))
    def check(events: list[CloudEvent]) -> None:
        batch = uuid4().hex
        messages = [
            make_message(event, config={"topic": f"{root}/{batch}/{number}"})
            for number, event in enumerate(events)
        ]
        assert backend.send_batch(messages) == [None] * len(messages)
        arrived = {each.topic: each for each in reader.read()}
        for number, event in enumerate(events):
            assert_same_event(_read_by_sdk(arrived[f"{batch}/{number}"]), event)

    check()


def _read_by_sdk(message: Arrived) -> Any:
    headers = {f"ce-{name}": text for name, text in message.headers.items()}
    if message.content_type:
        headers["content-type"] = message.content_type
    # The values are text as it is, where HTTP has it percent-encoded.
    headers = {name: text.replace("%", "%25") for name, text in headers.items()}
    return http.from_http(http.HTTPMessage(headers, message.payload), JSONFormat())


@pytest.mark.shows("QoS 1, user properties, expiry")
def test_message_has_exactly_the_documented_properties(
    make: MakeBackend, reader: Subscriber
) -> None:
    """A message has QoS 1, the content type of its mode, and is not retained."""
    message = make_message(
        id="A-1", source="/shop", event_type="order.placed", time=None, data={"a": 1}
    )
    make().send(message)
    make(content_mode="binary").send(message)
    attributes = {"specversion": "1.0", "id": "A-1", "source": "/shop", "type": "order.placed"}
    assert reader.read() == [
        Arrived("order.placed", message.to_json(), "application/cloudevents+json", {}, False, 1),
        Arrived(
            "order.placed",
            b'{"a":1}',
            "application/json",
            {**attributes, "datacontenttype": "application/json"},
            False,
            1,
        ),
    ]


def test_each_answer_of_a_long_line_is_a_sign_of_life(make: MakeBackend) -> None:
    """A slow server whose answers come is no stall."""
    assert_long_line_shows_signs_of_life(make())


def test_payloads_of_all_sizes_arrive_as_they_are(make: MakeBackend, reader: Subscriber) -> None:
    """Messages around the steps of the length field, and of megabytes, are not damaged."""
    sizes = [0, 1, 100, 128, 16_000, 16383, 16384, 65535, 65536, 2**21, 5_000_000]
    octets = "application/octet-stream"
    messages = [make_message(data=os.urandom(n), data_content_type=octets) for n in sizes]
    assert make(content_mode="binary").send_batch(messages) == [None] * len(sizes)
    arrived = {each.headers["id"]: each.payload for each in reader.read()}
    assert arrived == {message.event_id: message.data_binary for message in messages}


@pytest.mark.shows("QoS 1, user properties, expiry")
@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_message_expires_with_its_event(
    make: MakeBackend, root: str, reader: Subscriber, mode: str
) -> None:
    """The server drops what a subscriber did not fetch before the event's `expirytime`.

    One that MQTT has no room for, as it is over 136 years away, makes no difference.
    """
    now = timezone.now()
    messages = [
        make_message(id="soon", data=1, extensions={"expirytime": now + timedelta(seconds=1)}),
        make_message(id="later", data=1, extensions={"expirytime": now + timedelta(hours=1)}),
        make_message(id="in 2999", data=1, extensions={"expirytime": "2999-12-31T23:59:59Z"}),
        make_message(id="never", data=1),
    ]
    backend = make(content_mode=mode, topic=f"{root}/{{key}}", retain=True)
    for message in messages:
        message.config = {"topic": f"{root}/{message.event_id}"}
    assert backend.send_batch(messages) == [None] * 4
    assert len(reader.read()) == 4

    def retained() -> set[str]:
        with subscriber(shared_address(), root) as late:
            return {each.topic for each in late.read()}

    kept = {"later", "in 2999", "never"}
    wait_until(lambda: retained() == kept, 20, "the server drops what has expired")
    shown = backend.show(messages[1]).destination["expiry_seconds"]
    assert 3000 < shown <= 3600
    for message in messages:
        forget_retained(message.config["topic"])


def test_retained_message_is_there_for_who_comes_later(make: MakeBackend, root: str) -> None:
    """A later subscriber gets the last message of each topic that has `retain`."""
    backend = make(retain=True, topic=f"{root}/{{key}}")
    messages = [*numbers(2, "a"), *numbers(1, "b"), *numbers(1, "c", config={"retain": False})]
    assert backend.send_batch(messages) == [None] * 4
    with subscriber(shared_address(), root) as late:
        arrived = late.read()
    assert {(each.topic, each.event["id"], each.retain) for each in arrived} == {
        ("a", messages[1].event_id, True),
        ("b", messages[2].event_id, True),
    }
    empty = [make_message(config={"topic": f"{root}/{name}"}) for name in "ab"]  # forgets them
    assert make(retain=True, content_mode="binary").send_batch(empty) == [None] * 2


def test_end_to_end_from_a_transaction(database: str, root: str, reader: Subscriber) -> None:
    """What a transaction published has arrived, in order, after the relay has run."""
    host, port = shared_address()
    options = {"host": host, "port": port, "topic": f"{root}/{{type}}/{{key}}"}
    setting = {"BACKEND": "django_broadcaster.backends.MQTTBackend", "OPTIONS": options}
    with override_settings(OUTBOX_PUBLISHERS={"default": setting}):
        with transaction.atomic(database):
            for number in range(5):
                publisher.publish_event(
                    "order.placed", "/shop", {"n": number}, partition_key="order", using=database
                )
        assert Worker(
            WorkerOptions(
                database=database, backends=["default"], batch_size=100, interval=0.1, drain=True
            )
        ).run()
    arrived = reader.read()
    assert [each.event["data"]["n"] for each in arrived] == [0, 1, 2, 3, 4]
    assert {each.topic for each in arrived} == {"order.placed/order"}
    states = set(OutboxEvent.objects.using(database).values_list("status", flat=True))
    assert states == {OutboxEventStatus.PUBLISHED}


def test_event_without_a_subscriber_is_acknowledged(make: MakeBackend) -> None:
    """The server takes it, keeps it for nobody, and says so with a code that is no error."""
    assert make().send_batch(numbers(3)) == [None] * 3


# --- Where it goes -----------------------------------------------------------------------------


def test_config_of_an_event_names_its_topic(
    make: MakeBackend, root: str, reader: Subscriber
) -> None:
    """`publisher_config` sends an event to another topic, as it stands there."""
    messages = [*numbers(1, event_type="a.b"), *numbers(1, config={"topic": f"{root}/else/where"})]
    assert make().send_batch(messages) == [None, None]
    assert [each.topic for each in reader.read()] == ["a.b", "else/where"]


def test_topic_is_made_from_the_event(make: MakeBackend, root: str, reader: Subscriber) -> None:
    """Fields are filled in and escaped, so that each is one level."""
    backend = make(topic=f"{root}/{{type}}/{{key}}/{{subject}}")
    backend.send(make_message(event_type="order.placed", partition_key="a/+/#", data=1))
    backend.send(make_message(event_type="$SYS", subject="_", data=1))
    assert [each.topic for each in reader.read()] == [
        "order.placed/a%2F%2B%2F%23/_",
        "%24SYS/_/%5F",
    ]


@pytest.mark.shows("names are escaped")
@given(st.text(min_size=1))
def test_topic_cannot_be_broken_out_of(value: str) -> None:
    """A field has no level of its own, no wildcard, no `$`, no space and no control character."""
    text = value.encode(errors="replace").decode()
    assert re.fullmatch(r"[\w.~%-]+", escape_level("type", text), re.ASCII)
    assert escape_level("key", text) != "_"


def test_topic_that_is_too_long_is_rejected_alone(
    make: MakeBackend, root: str, reader: Subscriber
) -> None:
    """A topic over the protocol's 65,535 bytes costs its event, and holds its key."""
    backend = make(topic=f"{root}/{{subject}}")
    messages = [
        *numbers(1, "a", subject="x"),
        *numbers(1, "a", subject="x" * 65536),
        *numbers(1, "a", subject="x"),
        *numbers(1, "b", subject="x" * 60000),
    ]
    assert kinds(backend.send_batch(messages)) == [None, Rejected, Held, None]
    assert sorted(ids(reader.read())) == sorted([messages[0].event_id, messages[3].event_id])


def test_attribute_that_mqtt_has_no_room_for_is_rejected_alone(
    make: MakeBackend, reader: Subscriber
) -> None:
    """In binary mode a text over 65,535 bytes, or with a control character, costs its event."""
    tampered = make_message(data=1, partition_key="a")
    tampered.subject = "a\0b"
    messages = [
        make_message(data=1, extensions={"large": "x" * 65535}),
        make_message(data=1, extensions={"large": "x" * 65536}),
        tampered,
        *numbers(1, "a"),
        *numbers(1, "b"),
    ]
    outcomes = make(content_mode="binary").send_batch(messages)
    assert kinds(outcomes) == [None, Rejected, Rejected, Held, None]
    assert {each.headers["id"] for each in reader.read()} == {
        messages[0].event_id,
        messages[4].event_id,
    }


def test_tampered_event_is_transient_and_holds_its_key(
    make: MakeBackend, reader: Subscriber
) -> None:
    """A message that cannot be encoded fails alone."""
    broken = make_message(data=1, partition_key="a")
    broken.extensions = {"bad": object()}
    messages = [broken, *numbers(1, "a"), *numbers(1, "b")]
    assert kinds(make().send_batch(messages)) == [TransientError, Held, None]
    assert ids(reader.read()) == [messages[2].event_id]


# --- Order and round trips ---------------------------------------------------------------------


@pytest.mark.shows("order after a failure in a batch")
def test_one_event_of_a_key_is_on_its_way_at_a_time() -> None:
    """The next event of a key is ready when the one before is acknowledged, never if it failed."""
    batch = MessageBatch([*numbers(3, "a"), *numbers(2), *numbers(3, "b")])
    order = KeyOrder(batch, lambda: None)
    assert list(order.ready) == [0, 3, 4, 5]
    order.ready.clear()
    order.conclude(0, None)
    assert list(order.ready) == [1]
    order.conclude(5, Rejected("no"))
    order.conclude(3, None)
    assert list(order.ready) == [1]
    assert kinds(batch.outcomes[5:]) == [Rejected, Held, Held]
    assert [index for index, each in enumerate(batch.outcomes) if each is None] == [0, 3]


def test_batch_of_many_keys_waits_for_nothing_in_between(
    make: MakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the server allows so many on their way, a batch goes at once; one key goes in steps."""
    writes: list[int] = []
    send = Connection.send

    def counted(connection: Connection, data: bytes) -> None:
        writes.append(len(data))
        send(connection, data)

    monkeypatch.setattr(Connection, "send", counted)
    messages = [make_message(data=n, partition_key=f"key-{n}") for n in range(200)]
    with mosquitto_server(tmp_path, "max_inflight_messages 1000") as server:
        backend = make(host="127.0.0.1", port=server.port)
        assert backend.send_batch(messages) == [None] * 200
        assert len(writes) == 200 / TURN
        assert backend.send_batch(numbers(50, "key")) == [None] * 50
        assert len(writes) == 200 / TURN + 50


# --- Packets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "digits"),
    [
        (0, "00"),
        (127, "7f"),
        (128, "80 01"),
        (16383, "ff 7f"),
        (16384, "80 80 01"),
        (2097151, "ff ff 7f"),
        (2097152, "80 80 80 01"),
        (268435455, "ff ff ff 7f"),
    ],
)
def test_length_is_written_as_the_specification_says(number: int, digits: str) -> None:
    """The steps of table 1-1 in section 1.5.5, and a reader that finds them again."""
    assert variable(number).hex(" ") == digits
    if number < 2**20:
        assert Reader().feed(b"\x40" + variable(number) + bytes(number)) == [
            Packet(0x40, bytes(number))
        ]


@pytest.mark.shows("read by the official SDK, packets of the specification")
def test_publish_packet_is_written_as_the_specification_says() -> None:
    """Section 3.3, octet by octet: QoS 1, retained, a content type and a user property."""
    outgoing = Outgoing(b"a/b", properties("c", {"d": "é"}), b"{}", retain=True, is_own=True)
    packet = outgoing.packet(0x1234)
    assert packet.hex(" ") == (
        "33 16"  # PUBLISH with QoS 1 and RETAIN; 22 bytes follow
        " 00 03 61 2f 62"  # the topic
        " 12 34"  # the packet identifier
        " 0c"  # 12 bytes of properties
        " 03 00 01 63"  # the content type
        " 26 00 01 64 00 02 c3 a9"  # a user property
        " 7b 7d"
    ).replace("  ", " ")
    assert outgoing.size == len(packet)


@given(st.lists(st.binary(max_size=300), max_size=10), st.integers(1, 7))
def test_reader_finds_packets_however_they_are_cut(bodies: list[bytes], step: int) -> None:
    """What comes in pieces is put together."""
    data = b"".join(b"\x40" + variable(len(body)) + body for body in bodies)
    reader = Reader()
    found = [
        packet
        for start in range(0, len(data), step)
        for packet in reader.feed(data[start : start + step])
    ]
    assert found == [Packet(0x40, body) for body in bodies]


def test_reader_refuses_what_is_no_mqtt() -> None:
    """A length of more than four bytes is none."""
    with pytest.raises(ValueError, match="does not speak MQTT"):
        Reader().feed(b"\x40\xff\xff\xff\xff\xff")


# --- Settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"host": ""}, "host"),
        ({"host": 1}, "host"),
        ({"port": 0}, "port"),
        ({"port": "1883"}, "port"),
        ({"port": 65536}, "port"),
        ({"topic": ""}, "topic"),
        ({"topic": "a/{id}"}, "topic"),
        ({"topic": "a/+/b"}, "topic"),
        ({"topic": "a/#"}, "topic"),
        ({"topic": "a\0b"}, "topic"),
        ({"topic": "a" * 65536}, "topic"),
        ({"client_id": "a\0b"}, "client_id"),
        ({"password": "secret"}, "username"),
        ({"username": "me", "password": b"secret"}, "password"),
        ({"username": "me", "password": "secret" * 20_000}, "password"),
        ({"tls": "yes"}, "tls"),
        ({"tls": {"ca_cert": "ca.pem"}}, "tls"),
        ({"tls": {"key_file": "key.pem"}}, "tls"),
        ({"keepalive": -1}, "keepalive"),
        ({"keepalive": 65536}, "keepalive"),
        ({"keepalive": 1.5}, "keepalive"),
    ],
)
def test_wrong_option_is_named(options: dict[str, Any], named: str) -> None:
    """A wrong option is an error that names it and the alias, and repeats no password."""
    with pytest.raises(BackendConfigurationError) as caught:
        MQTTBackend(alias="orders", **options)
    assert f"OUTBOX_PUBLISHERS['orders']['OPTIONS']['{named}']" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [{"topic": ""}, {"topic": "a/+"}, {"topic": None}, {"topic": "\ud800"}, {"retain": 1}],
)
def test_wrong_config_of_an_event_is_named(config: dict[str, Any]) -> None:
    """A value of `publisher_config` that cannot work is refused with its key."""
    (key,) = config
    with pytest.raises(InvalidPublisherConfig, match=f"'{key}'") as caught:
        MQTTBackend(alias="default").validate_config(config)
    assert caught.value.backend == "default"


def test_port_is_that_of_the_protocol() -> None:
    """Without a port it is 1883, and 8883 with TLS."""
    assert MQTTBackend(alias="default")._address.port == 1883
    assert MQTTBackend(alias="default", tls=True)._address.port == 8883


def test_client_identifiers_begin_as_told_and_differ(make: MakeBackend, reader: Subscriber) -> None:
    """Two backends with one setting, and a health check, do not push each other out."""
    one, other = make(client_id="shop"), make(client_id="shop")
    for number in range(3):
        for backend in (one, other):
            assert backend.send_batch(numbers(1)) == [None], number
            assert backend.health_check() is True
    names = {backend.connection()._client._client_id for backend in (one, other)}
    assert len(names) == 2
    assert all(name.startswith(b"shop-") for name in names)
    assert len(reader.read()) == 6
