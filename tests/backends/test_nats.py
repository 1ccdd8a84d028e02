"""The NATS backend against real servers: what is in the stream, and what its options do."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote
from uuid import uuid4

import pytest
from cloudevents.core.bindings import http
from cloudevents.core.formats.json import JSONFormat
from django.utils import timezone
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as with_settings
from hypothesis import strategies as st

from django_broadcaster.backends import Message, MessageBackend, NATSBackend, Outcome
from django_broadcaster.backends.bindings import canonical
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    BackendUnavailable,
    InvalidPublisherConfig,
)
from django_broadcaster.relay.loop import DeliveryLoop
from django_broadcaster.testing import BackendContract, Fault, make_message
from tests.events.strategies import EVENTS as ANY_EVENT
from tests.support.batches import numbers
from tests.support.conformance import assert_long_line_shows_signs_of_life, assert_same_event
from tests.support.events import publish, statuses
from tests.support.nats_server import (
    Stored,
    add_stream,
    config_of,
    delete_stream,
    port_of,
    purge_stream,
    shared_url,
    stored,
    update_stream,
    version_of,
)
from tests.support.nats_server import count as count_of
from tests.support.routing import OneDatabase
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pytest_django import Settings

MakeBackend = Callable[..., NATSBackend]


@pytest.fixture
def make() -> Iterator[MakeBackend]:
    """Make backends, which are closed at the end."""
    with ExitStack() as made:

        def make(**options: Any) -> NATSBackend:
            backend = NATSBackend(alias="default", **{"servers": shared_url(), **options})
            made.callback(backend.close)
            return backend

        yield make


@pytest.fixture
def name() -> Iterator[str]:
    """A name that nobody else uses on the shared server, for a stream and its subjects."""
    name = f"test-{uuid4()}"
    yield name
    delete_stream(shared_url(), name)


# --- The contract ------------------------------------------------------------------------------


class TestStructured(BackendContract):
    """Through a proxy, so that the shared server can be away."""

    config = {"subject": "elsewhere"}
    content_mode = "structured"

    @pytest.fixture(autouse=True)
    def _stream(self) -> Iterator[None]:
        self.stream = f"contract-{uuid4()}"
        add_stream(shared_url(), self.stream, f"{self.stream}.>")
        with TcpProxy("127.0.0.1", port_of(shared_url())) as self.proxy:
            yield
        delete_stream(shared_url(), self.stream)

    def make_backend(self, **options: Any) -> MessageBackend:
        return NATSBackend(
            servers=f"nats://127.0.0.1:{self.proxy.port}",
            stream=self.stream,
            subject=f"{self.stream}.{{type}}",
            content_mode=self.content_mode,  # type: ignore[arg-type]
            **options,
        )

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        return [json.loads(message.data) for message in stored(shared_url(), self.stream)]

    def break_broker(self) -> AbstractContextManager[object]:
        return self.proxy.away()


class TestBinary(TestStructured):
    """In binary mode attributes are text, and data is bytes: that is what is compared."""

    content_mode = "binary"

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        return [_members(message) for message in stored(shared_url(), self.stream)]

    def _arrived(self, messages: Sequence[Message]) -> None:
        assert self.read_back() == [_expected_members(message) for message in messages]


def _members(message: Stored) -> Mapping[str, Any]:
    """What a message in binary mode is, by the words of the binding's section 3.1."""
    attributes = {
        header.removeprefix("ce-"): unquote(value)
        for header, value in message.headers.items()
        if header.startswith("ce-")
    }
    return {**attributes, "data": message.data}


def _expected_members(message: Message) -> Mapping[str, Any]:
    expected: dict[str, Any] = {
        key: canonical(value)
        for key, value in message.event.to_dict().items()
        if key not in ("data", "data_base64")
    }
    if message.data_binary is not None:
        return {**expected, "data": message.data_binary}
    if message.data_json is None:
        return {**expected, "data": b""}
    content_type = expected.setdefault("datacontenttype", "application/json")
    text = message.data_json if "json" in content_type else json.loads(message.data_json)
    return {**expected, "data": text.encode()}


# --- What is in the stream ---------------------------------------------------------------------


def test_structured_message_has_exactly_the_documented_headers(
    make: MakeBackend, name: str
) -> None:
    """The body is the event's JSON; the headers are those of the package's docstring."""
    message = make_message(id="A 1", event_type="order.placed", source="/shop", data={"total": 1})
    make(stream=name, subject=f"{name}.{{type}}", create_stream=True).send(message)
    (found,) = stored(shared_url(), name)
    assert (found.subject, found.data) == (f"{name}.order.placed", message.to_json())
    message_id = found.headers.pop("Nats-Msg-Id")
    assert message_id.startswith("A%201:")
    assert found.headers == {
        "Nats-Expected-Stream": name,
        "Content-Type": "application/cloudevents+json",
    }


@pytest.mark.shows("read by the official SDK, vectors of the specification")
def test_binary_message_is_as_the_specification_shows(make: MakeBackend, name: str) -> None:
    """The vector of the binding's section 3.1.4; a Content-Type would mean structured mode."""
    event = {
        "id": "1234-1234-1234",
        "event_type": "com.example.someevent",
        "source": "/mycontext/subcontext",
        "time": None,
        "data": {"a": 1},
        "data_content_type": "application/json",
        "extensions": {"note": "Euro € 😀"},
    }
    options = {"stream": name, "subject": name, "create_stream": True}
    make(content_mode="binary", **options).send(make_message(**event))
    (found,) = stored(shared_url(), name)
    del found.headers["Nats-Msg-Id"]
    assert found.headers == {
        "Nats-Expected-Stream": name,
        "ce-specversion": "1.0",
        "ce-type": "com.example.someevent",
        "ce-id": "1234-1234-1234",
        "ce-source": "/mycontext/subcontext",
        "ce-datacontenttype": "application/json",
        "ce-note": "Euro%20%E2%82%AC%20%F0%9F%98%80",
    }
    assert found.data == b'{"a":1}'


LATER = {"expirytime": "2999-12-31T23:59:59Z"}


def test_stream_without_ttl_takes_events_that_expire(make: MakeBackend, name: str) -> None:
    """A server refuses a message with a time to live for a stream that has none: none is sent."""
    options = {"stream": name, "subject": name, "create_stream": True}
    soon = timezone.now() + timedelta(hours=1)
    make(**options).send(make_message(extensions={"expirytime": soon}))
    (found,) = stored(shared_url(), name)
    assert "Nats-TTL" not in found.headers


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_message_expires_with_its_event(make: MakeBackend, name: str, mode: str) -> None:
    """A stream that allows it drops a message when the event's `expirytime` has passed."""
    if version_of(shared_url()) < (2, 11):
        pytest.skip("nats-server has a time to live for messages from 2.11 on")
    add_stream(shared_url(), name, name, allow_msg_ttl=True)
    soon, later = (timezone.now() + timedelta(seconds=seconds) for seconds in (1, 3600))
    messages = [
        make_message(id=str(number), extensions=extensions)
        for number, extensions in enumerate([{"expirytime": soon}, {"expirytime": later}, LATER])
    ]
    backend = make(stream=name, subject=name, content_mode=mode)
    assert backend.send_batch(messages) == [None] * 3
    wait_until(lambda: count_of(shared_url(), name) == 2, 20, "the server drops what has expired")
    kept, unlimited = stored(shared_url(), name)
    assert 3000 < int(kept.headers["Nats-TTL"]) <= 3600
    assert "Nats-TTL" not in unlimited.headers


@pytest.mark.shows("read by the official SDK, vectors of the specification")
@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_official_sdk_reads_every_event(make: MakeBackend, name: str, mode: str) -> None:
    """Whatever an event is, the CloudEvents SDK finds the same in what arrived.

    It has no binding for NATS. The one for HTTP reads the same headers, but for the data's type.
    """
    backend = make(stream=name, subject=f"{name}.{{type}}", create_stream=True, content_mode=mode)
    backend.open()
    rounds = count()

    @with_settings(
        max_examples=2,
        phases=[Phase.generate],
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(st.lists(ANY_EVENT, min_size=30, max_size=60, unique_by=lambda each: each.id))
    def check(events: list[Any]) -> None:
        purge_stream(shared_url(), name)
        # The server forgets no ids with a purge: another subject makes them others.
        config = {"subject": f"{name}.{next(rounds)}"}
        messages = [make_message(event, config=config) for event in events]
        assert backend.send_batch(messages) == [None] * len(messages)
        read = {each.get_id(): each for each in map(_as_read, stored(shared_url(), name))}
        for event in events:
            assert_same_event(read.pop(event.id), event)
        assert read == {}

    check()


def _as_read(message: Stored) -> Any:
    headers = {key: value for key, value in message.headers.items() if key.startswith("ce-")}
    content_type = headers.pop("ce-datacontenttype", None) or message.headers.get("Content-Type")
    if content_type:
        headers["content-type"] = unquote(content_type)
    return http.from_http(http.HTTPMessage(headers, message.data), JSONFormat())


def test_each_answer_of_a_long_line_is_a_sign_of_life(make: MakeBackend, name: str) -> None:
    """A slow server whose answers come is no stall."""
    assert_long_line_shows_signs_of_life(make(stream=name, create_stream=True))


def test_config_of_an_event_names_its_subject(make: MakeBackend, name: str) -> None:
    """`publisher_config` sends an event to another subject of the stream; braces mean nothing."""
    backend = make(stream=name, subject=f"{name}.{{type}}", create_stream=True)
    other = f"{name}.{{type}}.other"
    messages = [*numbers(1), *numbers(1, config={"subject": other})]
    assert backend.send_batch(messages) == [None, None]
    subjects = {message.subject for message in stored(shared_url(), name)}
    assert subjects == {f"{name}.test.event", other}


# --- Duplicates --------------------------------------------------------------------------------


@pytest.mark.shows("`Nats-Msg-Id`")
def test_repeated_event_is_stored_once(make: MakeBackend, name: str) -> None:
    """An event that is sent again within the stream's window is acknowledged and not stored."""
    backend = make(stream=name, subject=name, create_stream=True)
    messages = numbers(100, "key")
    for _ in range(2):
        assert backend.send_batch(messages) == [None] * 100
    again = make(stream=name, subject=name)
    assert again.send_batch(messages) == [None] * 100
    found = [json.loads(message.data)["id"] for message in stored(shared_url(), name)]
    assert found == [message.event_id for message in messages]


def test_two_events_with_one_id_are_both_stored(make: MakeBackend, name: str) -> None:
    """An id is unique for its source, and one event may go to several subjects of a stream."""
    backend = make(stream=name, subject=f"{name}.{{type}}", create_stream=True)
    messages = [
        make_message(id="1", source="/orders", data=1),
        make_message(id="1", source="/payments", data=1),
        make_message(id="1", source="/orders", data=1, config={"subject": f"{name}.copy"}),
    ]
    assert backend.send_batch(messages) == [None] * 3
    found = stored(shared_url(), name)
    assert len(found) == len({message.headers["Nats-Msg-Id"] for message in found}) == 3


# --- The stream at the start -------------------------------------------------------------------


@pytest.mark.shows("stream made or checked")
def test_missing_stream_is_made_where_that_is_wanted(make: MakeBackend, name: str) -> None:
    """The new stream takes what the template may become, and has the given configuration."""
    config = {"max_age": 3600, "max_msgs": 10, "duplicate_window": 60}
    subject = f"{name}.{{key}}.of.{{type}}"
    make(stream=name, subject=subject, create_stream=True, stream_config=config).open()
    made = config_of(shared_url(), name)
    assert made.subjects == [f"{name}.*.of.>"]
    assert (made.max_age, made.max_msgs, made.duplicate_window) == (3600, 10, 60)


@pytest.mark.shows(Fault.MISSING)
def test_missing_stream_is_unavailable_where_it_is_not_to_be_made(
    make: MakeBackend, name: str
) -> None:
    """A stream that is not there costs no event; the error says what to do."""
    backend = make(stream=name, subject=name)
    with pytest.raises(BackendUnavailable, match=f"no stream '{name}'.*create_stream"):
        backend.send(*numbers(1))
    assert backend.health_check() is True
    assert config_of(shared_url(), name) is None
    add_stream(shared_url(), name, name)
    assert backend.send_batch(numbers(2)) == [None, None]


@pytest.mark.shows("stream made or checked")
@pytest.mark.parametrize("create", [True, False])
def test_existing_stream_is_never_changed(make: MakeBackend, name: str, create: bool) -> None:
    """A stream that takes more than our subjects, or a part of them, stays as it is."""
    add_stream(shared_url(), name, f"{name}.orders.>", f"{name}.more", max_msgs=100)
    before = config_of(shared_url(), name)
    config = {"max_msgs": 5} if create else {}
    backend = make(
        stream=name, subject=f"{name}.{{type}}", create_stream=create, stream_config=config
    )
    assert backend.send_batch(numbers(2, event_type="orders.placed")) == [None, None]
    assert config_of(shared_url(), name) == before


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"subjects": ["other"]}, "takes .*, not "),
        ({"no_ack": True}, "no_ack"),
        ({"sealed": True}, "sealed"),
    ],
)
def test_stream_that_takes_nothing_of_ours_is_unavailable(
    make: MakeBackend, name: str, config: dict[str, Any], problem: str
) -> None:
    """A stream for other subjects, or one that acknowledges or takes nothing, costs no event."""
    subjects = [f"{name}.{each}" for each in config.pop("subjects", [">"])]
    if config.pop("sealed", False):
        add_stream(shared_url(), name, *subjects)
        update_stream(shared_url(), name, sealed=True)
    else:
        add_stream(shared_url(), name, *subjects, **config)
    backend = make(stream=name, subject=f"{name}.events.{{type}}", create_stream=True)
    with pytest.raises(BackendUnavailable, match=problem):
        backend.send(*numbers(1))


def test_stream_that_cannot_be_made_is_unavailable(make: MakeBackend, name: str) -> None:
    """A subject that another stream has costs no event; the server's reason is given."""
    add_stream(shared_url(), name, f"{name}.>")
    backend = make(stream=f"{name}-2", subject=f"{name}.{{type}}", create_stream=True)
    with pytest.raises(BackendUnavailable, match="overlap"):
        backend.open()


def test_stream_config_that_nats_py_does_not_know_is_named(make: MakeBackend, name: str) -> None:
    """A key that is no field of StreamConfig is an error that names the option."""
    backend = make(stream=name, subject=name, create_stream=True, stream_config={"max_messages": 1})
    with pytest.raises(BackendConfigurationError, match=r"'stream_config'\].*max_messages"):
        backend.open()


# --- Settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"servers": []}, "'servers'"),
        ({"servers": "127.0.0.1:4222"}, "'servers'"),
        ({"servers": ["http://one"]}, "'servers'"),
        ({"servers": "nats://me:secret/x@one:4222"}, "'servers'"),
        ({"servers": [1]}, "'servers'"),
        ({"stream": ""}, "'stream'"),
        ({"stream": "a.b"}, "'stream'"),
        ({"stream": "a\r\nb"}, "'stream'"),
        ({"stream": None}, "'stream'"),
        ({"subject": ""}, "'subject'"),
        ({"subject": "a.{id}"}, "'subject'"),
        ({"subject": "a..{type}"}, "'subject'"),
        ({"subject": "a.*"}, "'subject'"),
        ({"subject": "a b.{type}"}, "'subject'"),
        ({"subject": ".{type}"}, "'subject'"),
        ({"subject": "a" + ".{key}" * 20}, "'subject'"),
        ({"subject": "{type}", "create_stream": True}, "'create_stream'"),
        ({"stream_config": {"max_age": 1}}, "'stream_config'"),
        ({"stream_config": {"name": "x"}, "create_stream": True}, "'stream_config'"),
        ({"stream_config": 1, "create_stream": True}, "'stream_config'"),
        ({"tls": "yes"}, "'tls'"),
        ({"tls_hostname": "nats.example"}, "'tls_hostname'"),
        ({"tls_handshake_first": True}, "'tls_handshake_first'"),
        ({"username": "me"}, "'password'"),
    ],
)
def test_wrong_option_is_named(options: dict[str, Any], named: str) -> None:
    """A wrong option is an error that names it and the alias, and repeats no password."""
    with pytest.raises(BackendConfigurationError) as caught:
        NATSBackend(alias="orders", **options)
    assert f"OUTBOX_PUBLISHERS['orders']['OPTIONS'][{named}]" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("subject", ["", None, 1, "a.*", "a.>", "a b", "a..b", "a\r\n", "\ud800"])
def test_wrong_config_of_an_event_is_named(subject: object) -> None:
    """A subject of an event's own that cannot work is refused with its key."""
    with pytest.raises(InvalidPublisherConfig, match="'subject'") as caught:
        NATSBackend(alias="default").validate_config({"subject": subject})
    assert caught.value.backend == "default"


def test_several_servers_are_tried(make: MakeBackend, name: str) -> None:
    """A server that is away is no matter while another one of the list answers."""
    with TcpProxy("127.0.0.1", port_of(shared_url())) as proxy, proxy.away():
        servers = [f"nats://127.0.0.1:{proxy.port}", shared_url()]
        for _ in range(4):  # nats-py takes them in a random order
            backend = make(servers=servers, stream=name, subject=name, create_stream=True)
            assert backend.send_batch(numbers(2)) == [None, None]


def test_backend_works_inside_of_an_event_loop(make: MakeBackend, name: str) -> None:
    """Called from a coroutine, as in a notebook, the backend does its work all the same."""

    async def publish() -> list[Outcome]:
        backend = make(stream=name, subject=name, create_stream=True)
        assert backend.health_check() is True
        outcomes = backend.send_batch(numbers(3))
        backend.close()
        return outcomes

    assert asyncio.run(publish()) == [None] * 3


def test_child_process_does_not_share_the_connection(make: MakeBackend, name: str) -> None:
    """After a fork both sides publish, each over a connection of its own."""
    backend = make(stream=name, subject=name, create_stream=True)
    parent, child = numbers(100), numbers(100)
    backend.send_batch(parent[:50])
    pid = os.fork()
    if pid == 0:
        os._exit(backend.send_batch(child) != [None] * 100)
    assert backend.send_batch(parent[50:]) == [None] * 50
    assert os.waitpid(pid, 0)[1] == 0
    found = [json.loads(message.data)["id"] for message in stored(shared_url(), name)]
    for messages in (parent, child):
        mine = {message.event_id for message in messages}
        assert [each for each in found if each in mine] == [m.event_id for m in messages]


# --- From end to end ---------------------------------------------------------------------------


def test_committed_events_reach_the_stream_in_order(
    database: str, settings: Settings, name: str
) -> None:
    """What is published in a transaction is in the stream after a turn of the relay."""
    settings.DATABASE_ROUTERS = [OneDatabase(database)]
    options = {"servers": shared_url(), "stream": name, "subject": f"{name}.{{type}}.{{key}}"}
    settings.OUTBOX_PUBLISHERS = {
        "default": {
            "BACKEND": "django_broadcaster.backends.NATSBackend",
            "OPTIONS": {**options, "create_stream": True},
        }
    }
    publish("a1", "b1", "a2", "b2", "a3", using=database)
    with DeliveryLoop(database, "default") as loop:
        loop.turn(100)
    assert set(statuses(database).values()) == {"published"}
    found = stored(shared_url(), name)
    for key in "ab":
        mine = [each for each in found if each.subject == f"{name}.order.placed.{key}"]
        names = [json.loads(each.data)["data"]["name"] for each in mine]
        assert names == sorted(each for each in ("a1", "b1", "a2", "b2", "a3") if each[0] == key)


def test_tls_context_is_taken_as_it_is() -> None:
    """An SSLContext is nats-py's own term for TLS."""
    assert NATSBackend(alias="default", tls=ssl.create_default_context(), tls_hostname="x")
