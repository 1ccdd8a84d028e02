"""What is in a Redis stream, in both content modes, and what streams are called."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import pytest
import redis
from cloudevents.core.bindings import kafka
from cloudevents.core.formats.json import JSONFormat
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as with_settings
from hypothesis import strategies as st

from django_broadcaster.backends import Message, MessageBackend, RedisStreamBackend
from django_broadcaster.backends.bindings import canonical
from django_broadcaster.backends.names import LONGEST_VALUE, escape_stream
from django_broadcaster.events import JSON_NULL
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    InvalidPublisherConfig,
    Rejected,
)
from django_broadcaster.relay.loop import DeliveryLoop
from django_broadcaster.testing import BackendContract, make_message
from tests.events.strategies import EVENTS as ANY_EVENT
from tests.support.conformance import assert_same_event
from tests.support.events import publish, statuses
from tests.support.redis_server import shared_url
from tests.support.routing import OneDatabase
from tests.support.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from pytest_django import Settings

MakeBackend = Callable[..., RedisStreamBackend]
Fields = Mapping[bytes, bytes]


@pytest.fixture
def client() -> Iterator[redis.Redis]:
    """A client of the shared server."""
    with redis.Redis.from_url(shared_url()) as client:
        yield client


@pytest.fixture
def stream(client: redis.Redis) -> Iterator[str]:
    """A stream's name that nobody else uses; what begins with it is deleted in the end."""
    stream = f"test-{uuid4()}"
    yield stream
    for key in client.scan_iter(f"{stream}*"):
        client.delete(key)


@pytest.fixture
def make() -> Iterator[MakeBackend]:
    """Make backends on the shared server, which are closed at the end."""
    with ExitStack() as made:

        def make(**options: Any) -> RedisStreamBackend:
            backend = RedisStreamBackend(alias="default", url=shared_url(), **options)
            made.callback(backend.close)
            return backend

        yield make


def stored(client: redis.Redis, stream: str) -> list[Fields]:
    """The fields of a stream's entries, in order."""
    return [fields for _, fields in client.xrange(stream)]


class TestStructured(BackendContract):
    """Through a proxy, so that the shared server can be away."""

    config = {"stream_name": "elsewhere", "max_len": 1000, "tenant": "acme"}
    refused_config = {"event_id": "other"}
    content_mode = "structured"

    @pytest.fixture(autouse=True)
    def _server(self, client: redis.Redis, stream: str) -> Iterator[None]:
        self.client, self.stream = client, stream
        parts = urlsplit(shared_url())
        with TcpProxy(parts.hostname or "localhost", parts.port or 6379) as self.proxy:
            netloc = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{self.proxy.port}".lstrip("@")
            self.url = parts._replace(netloc=netloc).geturl()
            yield

    def make_backend(self, **options: Any) -> MessageBackend:
        options = {"content_mode": self.content_mode, "stream_name": self.stream, **options}
        return RedisStreamBackend(url=self.url, **options)

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        return [json.loads(fields[b"cloud_event"]) for fields in stored(self.client, self.stream)]

    def break_broker(self) -> AbstractContextManager[object]:
        return self.proxy.away()


class TestBinary(TestStructured):
    """In binary mode attributes are text, and data is bytes: that is what is compared."""

    content_mode = "binary"

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        return [_members(fields) for fields in stored(self.client, self.stream)]

    def _arrived(self, messages: Sequence[Message]) -> None:
        assert self.read_back() == [_expected_members(message) for message in messages]


def _members(fields: Fields) -> Mapping[str, Any]:
    """What an entry in binary mode is, by the words of the package's docstring."""
    members: dict[str, Any] = {
        key.decode().removeprefix("ce_"): value.decode()
        for key, value in fields.items()
        if key.startswith(b"ce_")
    }
    if b"content_type" in fields:
        members["datacontenttype"] = fields[b"content_type"].decode()
    if b"data" in fields:
        members["data"] = fields[b"data"]
    return members


def _expected_members(message: Message) -> Mapping[str, Any]:
    expected: dict[str, Any] = {
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


# --- Content modes -----------------------------------------------------------------------------


def test_binary_entry_has_exactly_the_documented_fields(
    make: MakeBackend, client: redis.Redis, stream: str
) -> None:
    """An entry's fields, their order and their values are those of the package's docstring."""
    message = make_message(
        id="id-1",
        event_type="order.placed",
        source="/shop/orders",
        time=datetime(2024, 2, 29, 12, 0, 0, 5, tzinfo=UTC),
        subject="Zoë",
        data={"total": 1},
        data_content_type="application/json",
        extensions={"flag": True},
        partition_key="order-1",
    )
    make(stream_name=stream, content_mode="binary").send(message)
    (fields,) = stored(client, stream)
    assert [(key.decode(), value.decode()) for key, value in fields.items()] == [
        ("event_id", "id-1"),
        ("event_type", "order.placed"),
        ("source", "/shop/orders"),
        ("timestamp", "2024-02-29T12:00:00.000005Z"),
        ("ce_specversion", "1.0"),
        ("ce_id", "id-1"),
        ("ce_source", "/shop/orders"),
        ("ce_type", "order.placed"),
        ("ce_subject", "Zoë"),
        ("ce_time", "2024-02-29T12:00:00.000005Z"),
        ("ce_flag", "true"),
        ("ce_partitionkey", "order-1"),
        ("content_type", "application/json"),
        ("data", '{"total":1}'),
    ]


@pytest.mark.parametrize(
    ("event", "data"),
    [({}, None), ({"data": JSON_NULL}, b"null"), ({"data": b"", "data_content_type": "a/b"}, b"")],
    ids=["no data", "null", "no bytes"],
)
def test_absent_null_and_empty_data_stay_apart(
    make: MakeBackend, client: redis.Redis, stream: str, event: dict[str, Any], data: bytes | None
) -> None:
    """In binary mode an event without data has no field for it."""
    make(stream_name=stream, content_mode="binary").send(make_message(**event))
    (fields,) = stored(client, stream)
    assert fields.get(b"data") == data


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_field_of_the_body_has_the_name_that_readers_expect(
    make: MakeBackend, client: redis.Redis, stream: str, mode: str
) -> None:
    """`body_field` names the field, as for readers that take `data` for the event."""
    message = make_message(data={"total": 1})
    make(stream_name=stream, content_mode=mode).send(message)
    make(stream_name=stream, content_mode=mode, body_field="payload").send(message)
    plain, named = stored(client, stream)
    usual, body = (b"cloud_event", message.to_json()), (b"data", b'{"total":1}')
    name, value = usual if mode == "structured" else body
    assert plain[name] == value
    assert {**named, name: named[b"payload"]}.items() >= plain.items()
    assert name not in named


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_further_field_can_not_replace_the_body(make: MakeBackend, stream: str, mode: str) -> None:
    """A further field of an event has another name than that of the body."""
    backend = make(stream_name=stream, content_mode=mode, body_field="payload")
    with pytest.raises(InvalidPublisherConfig, match="'payload'"):
        backend.validate_config({"payload": "x"})
    make(stream_name=stream, content_mode=mode).validate_config({"payload": "x"})


@pytest.mark.parametrize("field", ["", 5, "event_id", "content_type", "ce_id", "\ud800"])
def test_name_of_a_field_that_is_taken_is_refused(field: Any) -> None:
    """The body may not replace another field of an entry."""
    with pytest.raises(BackendConfigurationError, match="'body_field'"):
        RedisStreamBackend(alias="default", body_field=field)


@pytest.mark.shows("read by the official SDK")
@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_official_sdk_reads_every_event(
    make: MakeBackend, client: redis.Redis, stream: str, mode: str
) -> None:
    """Whatever an event is, the CloudEvents SDK finds the same in what arrived.

    It has no binding for Redis. The one for Kafka reads the fields, as they are named like its
    headers.
    """
    backend = make(stream_name=stream, content_mode=mode)

    @with_settings(
        max_examples=2,
        phases=[Phase.generate],
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(st.lists(ANY_EVENT, min_size=30, max_size=60, unique_by=lambda each: each.id))
    def check(events: list[Any]) -> None:
        client.delete(stream)
        assert backend.send_batch([make_message(each) for each in events]) == [None] * len(events)
        for event, fields in zip(events, stored(client, stream), strict=True):
            assert_same_event(_as_read(fields), event)

    check()


def _as_read(fields: Fields) -> Any:
    if b"cloud_event" in fields:
        headers = {"content-type": b"application/cloudevents+json"}
        return kafka.from_kafka(
            kafka.KafkaMessage(headers, None, fields[b"cloud_event"]), JSONFormat()
        )
    headers = {key.decode(): value for key, value in fields.items() if key.startswith(b"ce_")}
    if b"content_type" in fields:
        headers["content-type"] = fields[b"content_type"]
    return kafka.from_kafka(
        kafka.KafkaMessage(headers, None, fields.get(b"data", b"")), JSONFormat()
    )


def test_text_in_no_known_charset_is_rejected_alone(
    make: MakeBackend, client: redis.Redis, stream: str
) -> None:
    """Data that its own media type cannot hold fails alone, in binary mode."""
    wrong = make_message(data="é", data_content_type="text/plain; charset=ascii")
    outcomes = make(stream_name=stream, content_mode="binary").send_batch([wrong, make_message()])
    assert isinstance(outcomes[0], Rejected)
    assert outcomes[1] is None
    assert len(stored(client, stream)) == 1


# --- Names of streams --------------------------------------------------------------------------


def test_template_names_the_stream(make: MakeBackend, client: redis.Redis, stream: str) -> None:
    """Attributes fill in the fields, `_` where there is none, and `publisher_config` goes first."""
    backend = make(stream_name=f"{stream}:{{type}}:{{key}}")
    messages = [
        make_message(event_type="order.placed", partition_key="a b"),
        make_message(event_type="order.placed"),
        make_message(config={"stream_name": f"{stream}:{{type}}"}),
    ]
    assert backend.send_batch(messages) == [None] * 3
    found = sorted(key.decode().removeprefix(stream) for key in client.scan_iter(f"{stream}*"))
    assert found == [":order.placed:_", ":order.placed:a%20b", ":{type}"]


def test_events_of_a_key_stay_in_order_over_streams(
    make: MakeBackend, client: redis.Redis, stream: str
) -> None:
    """A refused event holds those behind it of its key that a template sends to another stream."""
    client.set(f"{stream}:wrong", "x")
    backend = make(stream_name=f"{stream}:{{type}}")
    types = ["right", "wrong", "right", "right"]
    messages = [make_message(event_type=each, partition_key="key") for each in types]
    outcomes = backend.send_batch(messages)
    assert [type(each).__name__ for each in outcomes] == ["NoneType", "Rejected", "Held", "Held"]
    assert len(stored(client, f"{stream}:right")) == 1


@pytest.mark.shows("names are escaped")
@pytest.mark.parametrize(
    ("field", "value", "escaped"),
    [
        ("type", "order.placed", "order.placed"),
        ("type", "order..placed", "order%2E%2Eplaced"),
        ("key", "a.b", "a%2Eb"),
        ("key", "a:b", "a%3Ab"),
        ("key", "{a}", "%7Ba%7D"),
        ("key", "*?[a]\\", "%2A%3F%5Ba%5D%5C"),
        ("key", "a\r\nb c\x00", "a%0D%0Ab%20c%00"),
        ("key", "_", "%5F"),
        ("key", "a_b-1", "a_b-1"),
        ("key", "%41~", "%2541%7E"),
        ("source", "/shop/é", "%2Fshop%2F%C3%A9"),
    ],
)
def test_no_value_breaks_out_of_its_part_of_a_name(field: str, value: str, escaped: str) -> None:
    """What parts names, chooses a slot or stands in patterns is encoded."""
    assert escape_stream(field, value) == escaped
    assert unquote(escaped) == value


@pytest.mark.shows("names are escaped")
@given(st.text(min_size=1), st.text(min_size=1), st.sampled_from(["type", "key"]))
def test_different_values_have_different_names(one: str, other: str, field: str) -> None:
    """No two values share a stream, and none makes a name of more than a bounded length."""
    names = {escape_stream(field, each.encode(errors="replace").decode()) for each in (one, other)}
    values = {each.encode(errors="replace") for each in (one, other)}
    assert len(names) == len(values)
    assert all(0 < len(each) <= LONGEST_VALUE for each in names)


def test_long_values_are_cut_and_stay_apart() -> None:
    """What would be a name without bound ends with a digest."""
    one, other = (escape_stream("key", "x" * 1000 + end) for end in "ab")
    assert one != other
    assert len(one) == len(other) == LONGEST_VALUE


@pytest.mark.parametrize("template", ["{id}", "{type", "{}", "{key!r}", "{key:>9}"])
def test_wrong_template_is_named(template: str) -> None:
    """A field that there is not, or a format, is an error of the option."""
    with pytest.raises(BackendConfigurationError, match="'stream_name'"):
        RedisStreamBackend(alias="default", stream_name=template)


# --- All of it ---------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True, databases="__all__")
def test_published_events_arrive_from_the_outbox(
    database: str, settings: Settings, client: redis.Redis, stream: str
) -> None:
    """From a committed transaction over the delivery loop into streams, each key in order."""
    settings.OUTBOX_PUBLISHERS = {
        "default": {
            "BACKEND": "django_broadcaster.backends.RedisStreamBackend",
            "OPTIONS": {
                "url": shared_url(),
                "stream_name": f"{stream}.{{type}}.{{key}}",
                "content_mode": "binary",
            },
        }
    }
    settings.DATABASE_ROUTERS = [OneDatabase(database)]
    publish("a1", "b1", "a2", "b2", "a3", using=database)
    with DeliveryLoop(database, "default") as loop:
        loop.turn(100)
    assert set(statuses(database).values()) == {"published"}
    for key, expected in {"a": ["a1", "a2", "a3"], "b": ["b1", "b2"]}.items():
        found = stored(client, f"{stream}.order.placed.{key}")
        assert [json.loads(fields[b"data"])["name"] for fields in found] == expected
