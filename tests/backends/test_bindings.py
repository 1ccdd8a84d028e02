"""The protocol bindings, by vectors written from the specification and by the official SDK."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings import amqp, http, kafka
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st

from django_broadcaster.backends.bindings import (
    AMQP,
    HTTP,
    KAFKA,
    MQTT,
    NATS,
    RABBITMQ,
    STRUCTURED_TYPE,
    Binding,
    BindingBackend,
    WireMessage,
    percent_encoded,
)
from django_broadcaster.events import JSON_NULL, CloudEvent
from django_broadcaster.exceptions import BackendConfigurationError, Rejected
from django_broadcaster.testing.contract import EVENTS, make_message
from tests.events.strategies import EVENTS as ANY_EVENT
from tests.support.conformance import assert_same_event

BINDINGS = {
    "kafka": KAFKA,
    "amqp": AMQP,
    "rabbitmq": RABBITMQ,
    "nats": NATS,
    "mqtt": MQTT,
    "http": HTTP,
}
PREFIXES = {
    "kafka": "ce_",
    "amqp": "cloudEvents_",
    "rabbitmq": "ce-",
    "nats": "ce-",
    "mqtt": "",
    "http": "ce-",
}


def binary(binding: Binding, **attributes: Any) -> WireMessage:
    """Return an event in binary mode."""
    return binding.encode(make_message(**attributes), "binary")


@pytest.mark.parametrize("name", BINDINGS)
@pytest.mark.parametrize("event", EVENTS)
def test_structured_mode_is_the_json_format(name: str, event: str) -> None:
    """The body is the whole event, and the content type says so; its trace is a header besides."""
    wire = BINDINGS[name].encode(make_message(EVENTS[event]), "structured")
    traced = EVENTS[event].extensions.keys() & {"traceparent", "tracestate"}
    assert (wire.content_type, wire.headers.keys()) == (STRUCTURED_TYPE, traced)
    assert wire.body is not None
    assert CloudEvent.from_json(wire.body) == EVENTS[event]


@pytest.mark.parametrize("name", BINDINGS)
def test_binary_mode_names_and_writes_every_attribute(name: str) -> None:
    """Each attribute is a header of the protocol's name with its canonical text."""
    wire = binary(
        BINDINGS[name],
        id="A-1",
        event_type="order.placed",
        source="/shop/orders",
        subject="7",
        time=datetime(2024, 2, 29, 23, 59, 59, 120000, tzinfo=UTC),
        data={"a": 1},
        data_schema="https://shop.example/order.json",
        extensions={"flag": True, "off": False, "count": -7, "partitionkey": "order-7"},
    )
    expected = {
        "specversion": "1.0",
        "id": "A-1",
        "type": "order.placed",
        "source": "/shop/orders",
        "subject": "7",
        "time": "2024-02-29T23:59:59.120000Z",
        "dataschema": "https://shop.example/order.json",
        "flag": "true",
        "off": "false",
        "count": "-7",
        "partitionkey": "order-7",
    }
    if name in ("nats", "mqtt"):  # NATS has no place of its own for it, readers of MQTT want both
        expected["datacontenttype"] = "application/json"
    assert wire.headers == {PREFIXES[name] + key: value for key, value in expected.items()}
    assert (wire.content_type, wire.body) == ("application/json", b'{"a":1}')


@pytest.mark.parametrize(
    ("data", "content_type", "body"),
    [
        ([1, "2", None], None, b'[1,"2",null]'),
        (JSON_NULL, None, b"null"),
        ("text", None, b'"text"'),
        ("text, größer", "text/plain", "text, größer".encode()),
        ("größer", "text/plain; charset=ISO-8859-1", "größer".encode("latin-1")),
        ("<a/>", 'application/xml; charset="utf-8"', b"<a/>"),
        ("1", "application/vnd.shop+json", b'"1"'),
        (b"", "image/png", b""),
        (b"\0\xff", None, b"\0\xff"),
        (b'{"a": 1}', "application/json", b'{"a": 1}'),
    ],
)
def test_binary_body_is_the_data_in_its_own_type(data: Any, content_type: str, body: bytes) -> None:
    """JSON stays JSON, text that is not JSON goes in its charset, bytes as they are."""
    assert binary(HTTP, data=data, data_content_type=content_type).body == body


@pytest.mark.parametrize("charset", ["no-such", "ascii"])
def test_text_that_its_charset_cannot_hold_is_rejected(charset: str) -> None:
    """Data that can never be written as its media type says blames the event, and names why."""
    with pytest.raises(Rejected, match=r"data: .*charset"):
        binary(HTTP, data="größer", data_content_type=f"text/plain; charset={charset}")


def test_no_data_is_not_an_empty_body() -> None:
    """An event without data has no body (in Kafka, a tombstone); one with no bytes has one."""
    assert binary(KAFKA).body is None
    assert binary(KAFKA, data=b"").body == b""


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("plain/~!#$&'()*+,;=?@[]:", "plain/~!#$&'()*+,;=?@[]:"),
        ("a b", "a%20b"),
        ("Euro € 😀", "Euro%20%E2%82%AC%20%F0%9F%98%80"),  # the specification's own example
        ('say "%"', "say%20%22%25%22"),
        ("a\r\nce-evil: 1", "a%0D%0Ace-evil:%201"),
    ],
)
def test_header_text_is_percent_encoded(text: str, encoded: str) -> None:
    """HTTP's and NATS' headers hold printable ASCII only; no value begins a header of its own."""
    assert percent_encoded(text) == encoded


def read_by_sdk(name: str, wire: WireMessage) -> Any:
    """Return the event that the official SDK makes of a message."""
    body = wire.body if wire.body is not None else b""
    if name == "kafka":
        headers = {key: value.encode() for key, value in wire.headers.items()}
        if wire.content_type:
            headers["content-type"] = wire.content_type.encode()
        return kafka.from_kafka(kafka.KafkaMessage(headers, None, body), JSONFormat())
    if name == "amqp":
        properties = {"content-type": wire.content_type} if wire.content_type else {}
        return amqp.from_amqp(amqp.AMQPMessage(properties, dict(wire.headers), body), JSONFormat())
    headers = dict(wire.headers)
    if wire.content_type:
        headers["content-type"] = wire.content_type
    return http.from_http(http.HTTPMessage(headers, body), JSONFormat())


@pytest.mark.parametrize("name", ["kafka", "amqp", "http"])
@pytest.mark.parametrize("mode", ["structured", "binary"])
@given(event=ANY_EVENT)
def test_official_sdk_reads_what_we_write(name: str, mode: Any, event: CloudEvent) -> None:
    """Any event arrives at the official SDK with its attributes and its data."""
    wire = BINDINGS[name].encode(make_message(event), mode)
    assert_same_event(read_by_sdk(name, wire), event)


@given(value=st.text())
def test_percent_encoding_is_undone_by_any_url_library(value: str) -> None:
    """What a receiver decodes is what was written."""
    from urllib.parse import unquote

    text = value.encode(errors="replace").decode()
    assert unquote(percent_encoded(text)) == text
    assert percent_encoded(text).isascii()
    assert json.dumps(percent_encoded(text)).isprintable()


class Own(BindingBackend):
    """A backend of the least size."""

    binding = HTTP

    def send(self, message: Any) -> None:
        """Send nothing."""


def test_unknown_content_mode_is_named() -> None:
    """A wrong mode is an error that names the option and what it may be."""
    with pytest.raises(BackendConfigurationError, match=r"'content_mode'\].*'structured' or"):
        Own(alias="own", content_mode="batched")  # type: ignore[arg-type]
