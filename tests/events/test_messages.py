"""Messages of the protocol bindings, as the official SDK writes them and as they get damaged."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings import amqp, http, kafka, rabbitmq
from cloudevents.core.v1.event import CloudEvent as SDKEvent
from django.test import RequestFactory
from hypothesis import given
from hypothesis import strategies as st

from django_broadcaster.backends.bindings import HTTP, KAFKA, MQTT, NATS, RABBITMQ, canonical
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import InvalidEvent
from django_broadcaster.testing import make_message
from tests.events.samples import refused
from tests.events.strategies import EVENTS

Write = Callable[[SDKEvent], CloudEvent]

STRUCTURED = "application/cloudevents+json"


def _by_http(write: Any) -> Write:
    def written(event: SDKEvent) -> CloudEvent:
        message = write(event)
        return CloudEvent.from_http(message.headers, message.body)

    return written


def _by_kafka(write: Any) -> Write:
    def written(event: SDKEvent) -> CloudEvent:
        message = write(event)
        return CloudEvent.from_kafka(list(message.headers.items()), message.value)

    return written


def _by_rabbitmq(write: Any) -> Write:
    def written(event: SDKEvent) -> CloudEvent:
        message = write(event)
        return CloudEvent.from_amqp(message.headers, message.body, message.content_type)

    return written


def _by_amqp(write: Any) -> Write:
    def written(event: SDKEvent) -> CloudEvent:
        message = write(event)
        kind = message.properties.get("content-type")
        return CloudEvent.from_amqp(message.application_properties, message.application_data, kind)

    return written


SDK_WRITERS = {
    "http, structured": _by_http(http.to_structured_event),
    "http, binary": _by_http(http.to_binary_event),
    "kafka, structured": _by_kafka(kafka.to_structured_event),
    "kafka, binary": _by_kafka(kafka.to_binary_event),
    "rabbitmq, structured": _by_rabbitmq(rabbitmq.to_structured_event),
    "rabbitmq, binary": _by_rabbitmq(rabbitmq.to_binary_event),
    "amqp, structured": _by_amqp(amqp.to_structured_event),
    "amqp, binary": _by_amqp(amqp.to_binary_event),
}


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        ({"total": 1.5, "ä": [None, True]}, "application/json"),
        ("größer", "text/plain"),
        ("<a/>", "application/xml"),
        (b"\x00\xff", "image/png"),
        (None, None),
    ],
)
@pytest.mark.parametrize("writer", SDK_WRITERS)
def test_what_the_sdk_writes_is_read(writer: str, data: Any, content_type: str | None) -> None:
    """A message of the official SDK becomes the event that it was made of."""
    attributes = {
        "id": "A 1",
        "source": "/shop?a=%20",
        "type": "bestellung.überprüft",
        "subject": 'say "100%"',
        "time": datetime(2024, 2, 29, 12, 0, 0, 5000, tzinfo=UTC),
        "partitionkey": "key 1",
        **({"datacontenttype": content_type} if content_type else {}),
    }
    read = SDK_WRITERS[writer](SDKEvent(attributes, data))
    assert (read.id, read.source, read.type) == ("A 1", "/shop?a=%20", "bestellung.überprüft")
    assert (read.subject, read.partition_key) == ('say "100%"', "key 1")
    assert read.time == attributes["time"]
    assert read.data == data
    assert read.to_dict().get("datacontenttype") == content_type


READERS: dict[str, tuple[Any, Callable[[dict[str, str], Any, str], CloudEvent]]] = {
    "http": (
        HTTP,
        lambda headers, body, kind: CloudEvent.from_http({**headers, "Content-Type": kind}, body),
    ),
    "kafka": (
        KAFKA,
        lambda headers, body, kind: CloudEvent.from_kafka(
            [(name, value.encode()) for name, value in {**headers, "content-type": kind}.items()],
            body,
        ),
    ),
    "nats": (
        NATS,
        lambda headers, body, kind: CloudEvent.from_nats(
            {**headers, "Content-Type": STRUCTURED} if kind == STRUCTURED else headers, body or b""
        ),
    ),
    "amqp": (
        RABBITMQ,
        lambda headers, body, kind: CloudEvent.from_amqp(headers, body or b"", kind or None),
    ),
    "mqtt": (
        MQTT,
        lambda headers, body, kind: CloudEvent.from_mqtt(
            list(headers.items()), body or b"", kind or None
        ),
    ),
}


@pytest.mark.parametrize("mode", ["structured", "binary"])
@pytest.mark.parametrize("name", READERS)
@given(event=EVENTS)
def test_any_event_is_read_as_it_was_written(name: str, mode: Any, event: CloudEvent) -> None:
    """Attributes and data of any event survive both modes of every protocol."""
    binding, read = READERS[name]
    wire = binding.encode(make_message(event), mode)
    found = read(wire.headers, wire.body, wire.content_type)
    assert (found.time, found.has_data, found.data) == (event.time, event.has_data, event.data)
    members, expected = found.to_dict(), event.to_dict()
    for ignored in ("data", "data_base64"):
        members.pop(ignored, None)
        expected.pop(ignored, None)
    if wire.content_type == STRUCTURED:
        assert members == expected
    else:
        assert members == {key: canonical(value) for key, value in expected.items()}


BINARY = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t"}


def test_request_of_django_is_read() -> None:
    """`request.headers` and `request.body` are what `from_http` takes."""
    request = RequestFactory().post(
        "/", {"a": 1}, content_type="application/json", headers={**BINARY, "ce-subject": "x%20y"}
    )
    event = CloudEvent.from_http(request.headers, request.body)
    assert (event.id, event.subject, event.data) == ("1", "x y", {"a": 1})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ('"quoted \\"text\\" %41"', 'quoted "text" A'),
        ("%2541", "%41"),
        ("100%", "100%"),
    ],
)
def test_header_text_of_http_is_decoded_once(text: str, value: str) -> None:
    """Quotes are taken off, then percent-encoding, and neither a second time."""
    assert CloudEvent.from_http({**BINARY, "ce-note": text}, b"").extensions == {"note": value}


def test_native_values_of_amqp_are_read() -> None:
    """Clients hand over numbers, booleans, bytes and times without a zone as such."""
    headers: dict[str, Any] = {
        **BINARY,
        "ce-time": datetime(2024, 1, 1),  # noqa: DTZ001 (as pika has it)
        "ce-flag": True,
        "ce-count": 7,
        "ce-note": "größer".encode(),
        "x-delay": 5000,
    }
    event = CloudEvent.from_amqp(headers, b"")
    assert event.time == datetime(2024, 1, 1, tzinfo=UTC)
    assert event.extensions == {"flag": True, "count": 7, "note": "größer"}


def test_message_of_mqtt_3_is_structured() -> None:
    """Without properties there is no place for a content type, and only one mode."""
    event = CloudEvent(event_type="t", source="/s", data=[1])
    assert CloudEvent.from_mqtt(None, event.to_json()) == event


def test_properties_that_are_no_attributes_are_left_out() -> None:
    """MQTT's user properties have no prefix: only those that can be attributes are read."""
    properties = [("specversion", "1.0"), ("id", "1"), ("source", "/s"), ("type", "t")]
    event = CloudEvent.from_mqtt([*properties, ("X-Own", "1"), ("own", "2")], b"")
    assert event.extensions == {"own": "2"}


@pytest.mark.parametrize(
    ("content_type", "body", "data"),
    [
        ("application/json", b"", ...),
        ("", b"", ...),
        ("", b"\x00", b"\x00"),
        ("image/png", b"", b""),
        ("text/plain", b"", ""),
        ("text/plain", b"\xff", b"\xff"),
        ("text/plain; charset=latin-1", b"\xff", "ÿ"),
        ("text/plain; charset=no-such", b"x", b"x"),
        ("application/vnd.shop+json; charset=utf-8", b"null", None),
    ],
)
def test_data_is_what_its_content_type_says(content_type: str, body: bytes, data: Any) -> None:
    """JSON is decoded, text that its charset can hold is text, and all else stays bytes."""
    headers = {**BINARY, "Content-Type": content_type} if content_type else BINARY
    event = CloudEvent.from_http(headers, body)
    assert (event.data if event.has_data else ...) == data


@pytest.mark.parametrize(
    ("headers", "body", "field", "said"),
    [
        ({}, b"{}", "event", "not a CloudEvent"),
        ({"Content-Type": "application/json"}, b"{}", "event", "application/json"),
        ({"Content-Type": STRUCTURED}, b"{", "event", "JSON"),
        ({"Content-Type": STRUCTURED}, b"[]", "event", "object"),
        ({"Content-Type": "application/cloudevents-batch+json"}, b"[]", "event", "from_json_batch"),
        ({"Content-Type": "application/cloudevents+avro"}, b"", "event", "avro"),
        ({**BINARY, "ce-specversion": "0.3"}, b"", "specversion", "0.3"),
        ({**BINARY, "ce-id": ""}, b"", "event_id", "non-empty"),
        ({**BINARY, "ce-source": "a b"}, b"", "source", "URI"),
        ({**BINARY, "ce-time": "noon"}, b"", "time", "RFC 3339"),
        ({**BINARY, "ce-a_b": "1"}, b"", "extensions", "letters and digits"),
        ({**BINARY, "ce-note": "%FF"}, b"", "event", "UTF-8"),
        ({**BINARY, "ce-note": b"\xff"}, b"", "event", "UTF-8"),
        ({**BINARY, "Content-Type": "application/json"}, b"{", "data", "JSON"),
        ({**BINARY, "Content-Type": "no type"}, b"", "data_content_type", "media type"),
    ],
)
def test_message_that_is_no_event_is_refused(
    headers: dict[str, Any], body: bytes, field: str, said: str
) -> None:
    """The error names what is wrong: a consumer can put the message aside with a reason."""
    error = refused(lambda: CloudEvent.from_http(headers, body))
    assert error.field == field
    assert said in str(error)


@pytest.mark.parametrize("moment", [10**30, -(10**30)])
def test_time_that_is_none_is_refused(moment: int) -> None:
    """A number that is no timestamp of AMQP is an error of the attribute."""
    error = refused(lambda: CloudEvent.from_amqp({**BINARY, "ce-time": moment}, b""))
    assert error.field == "time"


NAMES = st.sampled_from(
    ["ce-id", "ce_id", "cloudEvents:id", "content-type", "CE-SPECVERSION", "specversion", "time"]
)
VALUES = st.text() | st.binary() | st.integers() | st.none() | st.just(STRUCTURED) | st.datetimes()


@given(
    headers=st.none() | st.lists(st.tuples(NAMES | st.text() | st.binary(), VALUES)),
    body=st.binary() | st.none(),
    kind=st.none() | st.text() | st.just(STRUCTURED),
)
def test_rubbish_raises_invalid_event(headers: Any, body: Any, kind: str | None) -> None:
    """Whatever is on a wire, a reader returns an event or raises InvalidEvent."""
    readers: list[Callable[[], CloudEvent]] = [
        lambda: CloudEvent.from_http(headers, body),
        lambda: CloudEvent.from_kafka(headers, body),
        lambda: CloudEvent.from_nats(headers, body),
        lambda: CloudEvent.from_amqp(headers, body, kind),
        lambda: CloudEvent.from_mqtt(headers, body, kind),
    ]
    for read in readers:
        with suppress(InvalidEvent):
            assert read().id
