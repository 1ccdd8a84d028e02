"""The RabbitMQ backend against the shared server: what arrives, where, and in which order."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from cloudevents.core.bindings import amqp, rabbitmq
from cloudevents.core.formats.json import JSONFormat
from django.db import transaction
from django.test import override_settings
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from django_broadcaster.backends import Message, MessageBackend, RabbitMQBackend
from django_broadcaster.backends.bindings import canonical
from django_broadcaster.backends.names import escape_word, escape_words
from django_broadcaster.backends.rabbitmq import backend as rabbitmq_backend
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
from django_broadcaster.testing import BackendContract, Fault, make_message
from tests.events.strategies import EVENTS as ANY_EVENT
from tests.support.batches import kinds, numbers
from tests.support.conformance import assert_long_line_shows_signs_of_life, assert_same_event
from tests.support.rabbitmq_server import Arrived, channel, depth, remove, shared_url, take
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

MakeBackend = Callable[..., RabbitMQBackend]


@pytest.fixture
def make() -> Iterator[MakeBackend]:
    """Make backends on the shared server, which are closed at the end."""
    with ExitStack() as made:

        def make(**options: Any) -> RabbitMQBackend:
            backend = RabbitMQBackend(**{"alias": "default", "url": shared_url(), **options})
            made.callback(backend.close)
            return backend

        yield make


@pytest.fixture
def place() -> Iterator[str]:
    """A name for an exchange and a queue that nobody else uses on the shared server."""
    name = f"test-{uuid4().hex}"
    yield name
    remove(shared_url(), name, f"{name}-2")


@pytest.fixture
def name(place: str) -> str:
    """The same, by a shorter name."""
    return place


def ids(arrived: Sequence[Arrived]) -> list[str]:
    """The event ids of what arrived."""
    return [str(each.properties.message_id) for each in arrived]


# --- The contract ------------------------------------------------------------------------------


class TestStructured(BackendContract):
    """Through a proxy, so that the shared server can be away."""

    config = {"exchange": "elsewhere", "routing_key": "some.where"}
    mode = "structured"

    @pytest.fixture(autouse=True)
    def _server(self, place: str) -> Iterator[None]:  # not `name`: tests of the suite have one
        parts = urlsplit(shared_url())
        self.name = place
        self.arrived: list[Arrived] = []
        with TcpProxy(parts.hostname or "localhost", parts.port or 5672) as self.proxy:
            netloc = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{self.proxy.port}"
            self.url = parts._replace(netloc=netloc).geturl()
            with channel(shared_url()) as setup:  # there before the backend is
                setup.exchange_declare(place, "topic", durable=True)
                setup.queue_declare(place, durable=True)
            yield

    def make_backend(self, **options: Any) -> MessageBackend:
        names = {"exchange": self.name, "queue": self.name}
        return RabbitMQBackend(url=self.url, content_mode=self.mode, **names, **options)

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        self.arrived += take(shared_url(), self.name)
        return [self.members(each) for each in self.arrived]

    def members(self, message: Arrived) -> Mapping[str, Any]:
        """What arrived as members of the JSON format."""
        assert message.properties.content_type == "application/cloudevents+json"
        found: dict[str, Any] = json.loads(message.body)
        assert message.headers.keys() == found.keys() & {"traceparent", "tracestate"}
        return found

    def break_broker(self) -> AbstractContextManager[object]:
        return self.proxy.away()


class TestBinary(TestStructured):
    """In binary mode attributes are text, and data is bytes: that is what is compared."""

    mode = "binary"

    def members(self, message: Arrived) -> Mapping[str, Any]:
        found = {key.removeprefix("ce-"): text for key, text in message.headers.items()}
        if message.properties.content_type:
            found["datacontenttype"] = message.properties.content_type
            found["data"] = message.body
        return found

    def _arrived(self, messages: Sequence[Message]) -> None:
        assert self.read_back() == [_binary_members(message) for message in messages]


def _binary_members(message: Message) -> Mapping[str, Any]:
    """What a message is in binary mode, by the specification's words."""
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


# --- What is in the queue ----------------------------------------------------------------------


@pytest.mark.shows("persistent, `mandatory`")
def test_message_has_exactly_the_documented_properties(make: MakeBackend, name: str) -> None:
    """A message is persistent, has the event's id, and its place is the exchange and the type."""
    make(exchange=name, queue=name).send(make_message(id="A-1", event_type="order.placed", data=1))
    (message,) = take(shared_url(), name)
    properties = {key: value for key, value in vars(message.properties).items() if value}
    assert properties == {
        "content_type": "application/cloudevents+json",
        "delivery_mode": 2,
        "message_id": "A-1",
    }
    assert (message.exchange, message.routing_key) == (name, "order.placed")


@pytest.mark.shows("priority, expiration, headers of its own")
def test_message_has_the_properties_that_its_event_asks_for(make: MakeBackend, name: str) -> None:
    """Priority, expiration, correlation id and headers arrive with their types, in both modes."""
    headers = {"x-delay": 5000, "tenant": "Zoë", "urgent": True, "far": -(2**40)}
    config = {"priority": 7, "expiration": 60.5, "correlation_id": "order-1", "headers": headers}
    message = make_message(id="A-1", data=1, time=None, config=config)
    for mode in ("structured", "binary"):
        backend = make(exchange=name, queue=name, content_mode=mode)
        backend.validate_config(config)
        backend.send(message)
    structured, binary = take(shared_url(), name)
    for found in (structured, binary):
        properties = found.properties
        assert (properties.priority, properties.correlation_id) == (7, "order-1")
        assert (properties.expiration, properties.message_id) == ("60500", "A-1")
    assert structured.headers == headers
    attributes = {"specversion": "1.0", "id": "A-1", "source": "/contract", "type": "test.event"}
    assert binary.headers == {
        **headers,
        **{f"ce-{attribute}": value for attribute, value in attributes.items()},
    }
    shown = make(exchange=name).show(message).destination
    assert shown["headers"] == headers
    assert shown["priority"] == 7


@pytest.mark.shows("priority, expiration, headers of its own")
@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_message_expires_with_its_event(make: MakeBackend, name: str, mode: str) -> None:
    """The server drops a message when the event's `expirytime` has passed, or sooner if told so.

    A time that RabbitMQ has no room for, as it is over 49 days away, makes no difference.
    """
    soon, later = (timezone.now() + timedelta(seconds=seconds) for seconds in (0.2, 3600))
    messages = [
        make_message(id="soon", extensions={"expirytime": soon}),
        make_message(id="soonest", extensions={"expirytime": later}, config={"expiration": 0.1}),
        make_message(id="later", extensions={"expirytime": later}),
        make_message(id="in 2999", extensions={"expirytime": "2999-12-31T23:59:59Z"}),
        make_message(id="longest", config={"expiration": 4_294_967}),
    ]
    backend = make(exchange=name, queue=name, content_mode=mode)
    assert backend.send_batch(messages) == [None] * 5
    wait_until(lambda: depth(shared_url(), name) == 3, 10, "the server drops what has expired")
    found = {each.properties.message_id: each.properties for each in take(shared_url(), name)}
    assert found.keys() == {"later", "in 2999", "longest"}
    assert 3_000_000 < int(found["later"].expiration) <= 3_600_000
    assert found["in 2999"].expiration is None
    assert found["longest"].expiration == "4294967000"


@pytest.mark.parametrize(
    "config",
    [{"headers": {"CC": "not a list"}}, {"priority": 999}, {"expiration": "soon"}, {"headers": 1}],
)
def test_wrong_property_rejects_its_event_alone(
    make: MakeBackend, name: str, config: dict[str, Any]
) -> None:
    """A property that no publish call has judged, as in a changed row, stops no other event."""
    backend = make(exchange=name, queue=name)
    messages = [make_message(), make_message(config=config), make_message()]
    assert kinds(backend.send_batch(messages)) == [None, Rejected, None]


@pytest.mark.parametrize("key", ["priority", "expiration", "correlation_id", "headers"])
def test_refused_property_is_shown_shortened(make: MakeBackend, key: str) -> None:
    """The error about a property shows the beginning and the end of a long value only."""
    value = ["long"] * 1000
    with pytest.raises(InvalidPublisherConfig) as refused:
        make(exchange="").validate_config({key: value})
    assert key in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.shows("priority, expiration, headers of its own")
def test_property_that_the_server_refuses_rejects_its_event_alone(
    make: MakeBackend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A property that only the server refuses does not stop other events.

    Of a batch that was sent at once the server does not say which one it was. The next batch finds
    it.
    """
    monkeypatch.setattr(rabbitmq_backend, "read_properties", lambda read, config: None)
    backend = make(exchange=name, queue=name)
    wrong = make_message(config={"headers": {"CC": "not a list"}})
    messages = [make_message(), wrong, make_message()]
    backend.send_batch(messages)
    assert kinds(backend.send_batch(messages)) == [None, Rejected, None]


def test_exchange_has_the_arguments_of_the_options(make: MakeBackend, name: str) -> None:
    """What no queue takes goes to the alternate exchange that the arguments name."""
    arguments = {"alternate-exchange": f"{name}-2"}
    make(exchange=f"{name}-2", exchange_type="fanout", queue=f"{name}-2").open()
    make(exchange=name, exchange_arguments=arguments).send(make_message(id="A-1"))
    assert ids(take(shared_url(), f"{name}-2")) == ["A-1"]


@pytest.mark.shows("read by the official SDK")
@pytest.mark.parametrize(
    ("mode", "options"),
    [("structured", {}), ("binary", {}), ("binary", {"header_prefix": "cloudEvents_"})],
    ids=["structured", "binary", "binary of AMQP 1.0"],
)
def test_official_sdk_reads_every_event(
    make: MakeBackend, name: str, mode: str, options: dict[str, Any]
) -> None:
    """Whatever an event is, the CloudEvents SDK finds the same in what arrived.

    By its binding for RabbitMQ, unless headers are named as for AMQP 1.0.
    """
    backend = make(exchange=name, queue=name, content_mode=mode, binding_key="#", **options)
    backend.open()

    @settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(ANY_EVENT, min_size=20, max_size=40))
    def check(events: list[CloudEvent]) -> None:
        messages = [
            make_message(event, config={"routing_key": str(number)})
            for number, event in enumerate(events)
        ]
        assert backend.send_batch(messages) == [None] * len(messages)
        arrived = {int(each.routing_key): each for each in take(shared_url(), name)}
        assert sorted(arrived) == list(range(len(events)))
        for number, event in enumerate(events):
            assert_same_event(_read_by_sdk(arrived[number]), event)

    check()


def _read_by_sdk(message: Arrived) -> Any:
    content_type = message.properties.content_type
    properties = {"content-type": content_type} if content_type else {}
    if any(name.startswith("cloudEvents_") for name in message.headers):
        read = amqp.AMQPMessage(properties, message.headers, message.body)
        return amqp.from_amqp(read, JSONFormat())
    return rabbitmq.from_rabbitmq_event(
        rabbitmq.RabbitMQMessage(message.headers, content_type, message.body)
    )


def test_body_of_many_frames_arrives_as_it_is(make: MakeBackend, name: str) -> None:
    """Messages of sizes around the frame's limit, and of megabytes, are not damaged."""
    frame = 131072 - 8
    sizes = [0, 1, frame - 1, frame, frame + 1, 2 * frame, 5_000_000]
    octets = "application/octet-stream"
    messages = [make_message(data=os.urandom(n), data_content_type=octets) for n in sizes]
    backend = make(exchange=name, queue=name, content_mode="binary")
    assert backend.send_batch(messages) == [None] * len(sizes)
    assert [each.body for each in take(shared_url(), name)] == [m.data_binary for m in messages]


def test_each_answer_of_a_long_line_is_a_sign_of_life(make: MakeBackend, name: str) -> None:
    """A slow server whose answers come is no stall."""
    assert_long_line_shows_signs_of_life(make(exchange=name, queue=name))


def test_ids_that_are_alike_or_long_arrive(make: MakeBackend, name: str) -> None:
    """An id may be there twice, of two sources, or be too long to be the id of a message."""
    messages = [
        make_message(id="same", source="/a", data=1),
        make_message(id="same", source="/b", data=2),
        make_message(id="ü" * 200, data=3),
        make_message(data=4, config={"routing_key": "x"}),
    ]
    backend = make(exchange=name, queue=name)
    assert backend.send_batch(messages) == [None] * 4
    arrived = take(shared_url(), name)
    assert [json.loads(each.body)["data"] for each in arrived] == [1, 2, 3, 4]
    assert [each.properties.message_id for each in arrived][:3] == ["same", "same", None]


def test_end_to_end_from_a_transaction(database: str, name: str) -> None:
    """What a transaction published is in the queue, in order, after the relay has run."""
    options = {"url": shared_url(), "exchange": name, "queue": name}
    setting = {"BACKEND": "django_broadcaster.backends.RabbitMQBackend", "OPTIONS": options}
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
    found = [json.loads(each.body)["data"]["n"] for each in take(shared_url(), name)]
    assert found == [0, 1, 2, 3, 4]
    states = set(OutboxEvent.objects.using(database).values_list("status", flat=True))
    assert states == {OutboxEventStatus.PUBLISHED}


# --- Where it goes -----------------------------------------------------------------------------


def test_names_are_made_from_the_event(make: MakeBackend, name: str) -> None:
    """Exchange and routing key are filled in from the event, and escaped."""
    backend = make(exchange=f"{name}{{subject}}", routing_key="shop.{type}.{key}")
    with channel(shared_url()) as setup:
        setup.exchange_declare(f"{name}-2", "topic")
        setup.queue_declare(name)
        setup.queue_bind(name, f"{name}-2", "shop.order.placed.*")
    message = make_message(event_type="order.placed", subject="-2", partition_key="a.*.#", data=1)
    backend.send(message)
    (arrived,) = take(shared_url(), name)
    assert arrived.exchange == f"{name}-2"
    assert arrived.routing_key == "shop.order.placed.a%2E%2A%2E%23"


def test_config_of_an_event_names_its_place(make: MakeBackend, name: str) -> None:
    """`publisher_config` sends an event to another exchange, the default one, too."""
    with channel(shared_url()) as setup:
        setup.queue_declare(f"{name}-2")
    backend = make(exchange=name, queue=name)
    here, there = numbers(1), numbers(1, config={"exchange": "", "routing_key": f"{name}-2"})
    assert backend.send_batch([*here, *there]) == [None, None]
    assert ids(take(shared_url(), name)) == [here[0].event_id]
    assert ids(take(shared_url(), f"{name}-2")) == [there[0].event_id]


@pytest.mark.shows("names are escaped")
@pytest.mark.parametrize(
    ("field", "value", "escaped"),
    [
        ("type", "order.placed", "order.placed"),
        ("type", "order.*.#", "order.%2A.%23"),
        ("key", "a.b", "a%2Eb"),
        ("key", "*", "%2A"),
        ("subject", "a b/c%", "a%20b%2Fc%25"),
        ("source", "https://shop.example/ü", "https%3A%2F%2Fshop%2Eexample%2F%C3%BC"),
        ("key", "a\r\nb\0", "a%0D%0Ab%00"),
    ],
)
def test_routing_key_cannot_be_broken_out_of(field: str, value: str, escaped: str) -> None:
    """No field adds a word, but the type, whose words they are; none has a wildcard."""
    assert escape_words(field, value) == escaped


@pytest.mark.shows("names are escaped")
@given(st.text(min_size=1))
def test_exchange_cannot_be_broken_out_of(value: str) -> None:
    """A field of an exchange's name is of a few safe characters; `amq.` cannot be reached."""
    text = value.encode(errors="replace").decode()
    assert re.fullmatch(r"[\w%-]+", escape_word("type", text), re.ASCII)


def test_name_that_is_too_long_is_rejected_alone(make: MakeBackend, name: str) -> None:
    """A routing key over the protocol's 255 bytes costs its event, and holds its key."""
    backend = make(exchange=name, queue=name, routing_key="{subject}", binding_key="#")
    messages = [
        *numbers(1, "a", subject="x" * 255),
        *numbers(1, "a", subject="x" * 256),
        *numbers(1, "a", subject="x"),
        *numbers(1, "b", subject="x"),
    ]
    assert kinds(backend.send_batch(messages)) == [None, Rejected, Held, None]
    assert len(take(shared_url(), name)) == 2


def test_attributes_that_fill_a_frame_are_rejected_alone(make: MakeBackend, name: str) -> None:
    """Headers have to be in one frame: an event with more is not sent, and costs no connection."""
    backend = make(exchange=name, queue=name, content_mode="binary")
    messages = [
        make_message(data=1, extensions={"large": "x" * 130_000}),
        make_message(data=1, extensions={"large": "x" * 131_072}),
        make_message(data=1),
    ]
    outcomes = backend.send_batch(messages)
    assert kinds(outcomes) == [None, Rejected, None]
    assert "frame_max" in str(outcomes[1])


# --- Topology ----------------------------------------------------------------------------------


@pytest.mark.shows("topology declared or checked")
@pytest.mark.parametrize(
    ("options", "bound"),
    [
        ({}, "anything.at.all"),
        ({"routing_key": "constant"}, "constant"),
        ({"exchange_type": "direct", "binding_key": "one"}, "one"),
        ({"exchange_type": "fanout"}, "anything.at.all"),
        ({"binding_key": "order.*"}, "order.placed"),
        ({"durable": False}, "anything.at.all"),
        ({"queue_arguments": {"x-max-length": 5}}, "anything.at.all"),
    ],
)
def test_topology_is_declared(
    make: MakeBackend, name: str, options: dict[str, Any], bound: str
) -> None:
    """Exchange, queue and binding are there once the backend is open; opening again is no error."""
    backend = make(exchange=name, queue=name, **options)
    backend.open()
    backend.open()
    with channel(shared_url()) as sender:
        sender.basic_publish(name, bound, b"by hand")
    assert [each.body for each in take(shared_url(), name)] == [b"by hand"]


def test_queue_without_an_exchange(make: MakeBackend, name: str) -> None:
    """With the default exchange, events go to the queue by its name."""
    make(exchange="", queue=name).send(make_message(data=1))
    (arrived,) = take(shared_url(), name)
    assert (arrived.exchange, arrived.routing_key) == ("", name)


@pytest.mark.shows("topology declared or checked")
def test_existing_topology_is_only_checked(make: MakeBackend, name: str) -> None:
    """With `declare` False what is there may be of any kind, and stays as it is."""
    with channel(shared_url()) as setup:
        setup.exchange_declare(name, "fanout")
        setup.queue_declare(name, auto_delete=True)
        setup.queue_bind(name, name)
    make(exchange=name, queue=name, declare=False).send(make_message(data=1))
    assert len(take(shared_url(), name)) == 1


# --- What comes back ---------------------------------------------------------------------------


@pytest.mark.shows("persistent, `mandatory`")
def test_event_that_no_queue_takes_is_rejected(make: MakeBackend, name: str) -> None:
    """A returned message is rejected and names its place; its key is held, others are stored."""
    backend = make(exchange=name, queue=name, binding_key="taken.#")
    lost = {"event_type": "lost"}
    messages = [
        *numbers(1, "a", event_type="taken"),
        *numbers(1, "a", **lost),
        *numbers(1, "a", event_type="taken"),
        *numbers(2, "b", event_type="taken"),
        make_message(data=1, **lost),
        make_message(id="ü" * 200, data=1, **lost),
        make_message(id="same", source="/a", event_type="taken", data=1),
        make_message(id="same", source="/b", data=1, **lost),
        make_message(data={"large": "x" * 300_000}, **lost),
    ]
    outcomes = backend.send_batch(messages)
    assert kinds(outcomes) == [
        *(None, Rejected, Held, None, None, Rejected, Rejected, None, Rejected, Rejected)
    ]
    assert "routing key 'lost'" in str(outcomes[1])
    assert "NO_ROUTE" in str(outcomes[1])
    stored = {messages[index].event_id for index in (0, 3, 4, 7)}
    assert set(ids(take(shared_url(), name))) == stored


def test_unroutable_event_is_dropped_where_that_is_wanted(make: MakeBackend, name: str) -> None:
    """With `mandatory` False an event that no queue takes counts as delivered."""
    assert make(exchange=name, mandatory=False).send_batch(numbers(2)) == [None, None]


@pytest.mark.shows(Fault.MISSING)
def test_exchange_that_only_one_event_asked_for_is_transient(make: MakeBackend, name: str) -> None:
    """An exchange that is missing holds up no other event, and nothing is sent twice."""
    missing = {"exchange": f"{name}-missing"}
    messages = [
        *numbers(1, "a"),
        *numbers(2, "b", config=missing),
        *numbers(1, "c", config=missing),
        *numbers(1, "a"),
        *numbers(1, "b"),
        *numbers(3),
    ]
    backend = make(exchange=name, queue=name)
    expected = [None, TransientError, Held, TransientError, None, Held, None, None, None]
    for _ in range(2):
        outcomes = backend.send_batch(messages)
        assert kinds(outcomes) == expected
        sent = [m.event_id for m, kind in zip(messages, expected, strict=True) if kind is None]
        assert sorted(ids(take(shared_url(), name))) == sorted(sent)
    assert f"no exchange '{name}-missing'" in str(outcomes[1])


def test_tampered_event_is_transient_and_holds_its_key(make: MakeBackend, name: str) -> None:
    """A message that cannot be encoded fails alone."""
    broken = make_message(data=1, partition_key="a")
    broken.extensions = {"bad": object()}
    messages = [broken, *numbers(1, "a"), *numbers(1, "b")]
    outcomes = make(exchange=name, queue=name).send_batch(messages)
    assert kinds(outcomes) == [TransientError, Held, None]


# --- Speed -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keys", "turns"), [(0, 2), (500, 2), (100, 10)])
def test_batch_costs_few_writes(
    make: MakeBackend, name: str, monkeypatch: pytest.MonkeyPatch, keys: int, turns: int
) -> None:
    """A batch is written at once: as often as its busiest key has events, and one scout before."""
    from django_broadcaster.backends.rabbitmq.connection import Connection

    messages = numbers(500)
    for number, message in enumerate(messages):
        message.partition_key = f"key-{number % keys}" if keys else ""
    backend = make(exchange=name, queue=name)
    sent: list[int] = []
    send = Connection.send

    def counted(self: Connection, messages: list[Any], **options: Any) -> None:
        sent.append(len(messages))
        send(self, messages, **options)

    monkeypatch.setattr(Connection, "send", counted)
    assert backend.send_batch(messages) == [None] * 500
    assert sum(sent) == 500
    assert sent[0] == 1
    if turns == 2:
        assert len(sent) == 2
    else:  # confirmations come in groups, so the keys go on at different times
        assert len(sent) < 100


# --- Settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"url": "redis://one"}, "'url'"),
        ({"url": "amqp://me:secret/x@one"}, "'url'"),
        ({"url": "amqp://me:1/secret@one"}, "'url'"),
        ({"url": "amqp://me:1?secret@one"}, "'url'"),
        ({"url": "amqp://me:1#secret@one"}, "'url'"),
        ({"url": "amqp://[::1"}, "'url'"),
        ({"url": "amqp://one/a/b"}, "'url'"),
        ({"url": "amqp://one?heartbeat=5"}, "'url'"),
        ({"url": 5}, "'url'"),
        ({"url": "amqp://me:secret@one", "password": "secret"}, "'url'"),
        ({"login_method": "GUESS"}, "'login_method'"),
        ({"url": "amqp://one", "tls": {"ca_file": "ca.pem"}}, "'url'"),
        ({"url": "amqps://one", "tls": {"ca_certs": "ca.pem"}}, "'tls'"),
        ({"url": "amqps://one", "tls": "yes"}, "'tls'"),
        ({"exchange": None}, "'exchange'"),
        ({"exchange": "{nothing}"}, "'exchange'"),
        ({"exchange": "x" * 256}, "'exchange'"),
        ({"routing_key": "{type!r}"}, "'routing_key'"),
        ({"routing_key": 5}, "'routing_key'"),
        ({"exchange_type": "tropic"}, "'exchange_type'"),
        ({"exchange_type": "direct", "queue": "q"}, "'binding_key'"),
        ({"binding_key": 5}, "'binding_key'"),
        ({"queue": ""}, "'queue'"),
        ({"queue": "a\nb"}, "'queue'"),
        ({"header_prefix": "ce_"}, "'header_prefix'"),
        ({"heartbeat": -1}, "'heartbeat'"),
    ],
)
def test_wrong_option_is_named(options: dict[str, Any], named: str) -> None:
    """A wrong option is an error that names it and the alias, and repeats no password."""
    with pytest.raises(BackendConfigurationError) as caught:
        RabbitMQBackend(alias="orders", **options)
    assert f"OUTBOX_PUBLISHERS['orders']['OPTIONS'][{named}]" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        {"exchange": None},
        {"exchange": "a\r\nb"},
        {"routing_key": 5},
        {"routing_key": "x" * 256},
        {"routing_key": "\ud800"},
        {"priority": 256},
        {"priority": True},
        {"expiration": -1},
        {"expiration": "60"},
        {"expiration": 4_294_968},
        {"correlation_id": 5},
        {"correlation_id": "x" * 256},
        {"headers": "x-delay"},
        {"headers": {"": 1}},
        {"headers": {"x" * 256: 1}},
        {"headers": {"x-delay": 1.5}},
        {"headers": {"x-delay": 2**63}},
        {"headers": {"text": "\ud800"}},
        {"headers": {"CC": "elsewhere"}},
        {"headers": {"bcc": "elsewhere"}},
        {"headers": {"traceparent": "00-"}},
        {"headers": {"ce-id": "another"}},
        {"headers": {"cloudEvents_id": "another"}},
    ],
)
def test_wrong_config_of_an_event_is_named(make: MakeBackend, config: dict[str, Any]) -> None:
    """A value of `publisher_config` that cannot work is refused with its key."""
    (key,) = config
    with pytest.raises(InvalidPublisherConfig, match=f"'{key}'") as caught:
        make().validate_config(config)
    assert caught.value.backend == "default"


def test_child_process_does_not_share_the_connection(make: MakeBackend, name: str) -> None:
    """After a fork both sides publish, each over a connection of its own."""
    backend = make(exchange=name, queue=name)
    parent, child = numbers(100), numbers(100)
    assert backend.send_batch(parent[:50]) == [None] * 50
    pid = os.fork()
    if pid == 0:
        os._exit(backend.send_batch(child) != [None] * 100)
    assert backend.send_batch(parent[50:]) == [None] * 50
    assert os.waitpid(pid, 0)[1] == 0
    stored = ids(take(shared_url(), name))
    for messages in (parent, child):
        mine = {message.event_id for message in messages}
        assert [each for each in stored if each in mine] == [m.event_id for m in messages]
