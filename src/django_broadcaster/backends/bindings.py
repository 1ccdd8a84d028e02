"""The CloudEvents protocol bindings: how an event travels as headers and a body.

    structured   body = the whole event in the JSON format; one header says so
    binary       body = the data as it is; each attribute is a header in its canonical text

https://github.com/cloudevents/spec/tree/v1.0.2/cloudevents/bindings (NATS with headers: 1.0.3).
Binary mode can't carry every event: `Binding.is_structured` says which ones go structured. A
backend asks its `Binding` for a `WireMessage` and puts that into its client's terms. Nothing about
the formats is written anywhere else; `events/messages.py` reads what is written here.

An event that belongs to a trace has that in its extensions `traceparent` and `tracestate`:
https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/distributed-tracing.md
They travel like any extension. Instrumented consumers without support for CloudEvents look for the
headers of W3C Trace Context. If a protocol has such headers, they carry the same values, in both
modes: https://www.w3.org/TR/trace-context/ and its drafts for AMQP and MQTT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Any, Final, Literal, NamedTuple

import orjson

from django_broadcaster.events import SPEC_VERSION, TRACEPARENT, TRACESTATE
from django_broadcaster.events.grammar import charset_of, is_json_type
from django_broadcaster.events.timestamps import rfc3339
from django_broadcaster.exceptions import Rejected

from .base import Message, MessageBackend, Shown
from .names import percent_encoded

ContentMode = Literal["structured", "binary"]
CONTENT_MODES: Final[tuple[ContentMode, ...]] = ("structured", "binary")

STRUCTURED_TYPE: Final = "application/cloudevents+json"

_EVENT_TYPES: Final = "application/cloudevents"
"""The beginning of every media type of CloudEvents, batches and other formats included."""


class WireMessage(NamedTuple):
    """An event as a protocol carries it.

    `content_type` is the media type of the body, empty where there is none to name. `headers` are
    attributes by their names on the wire, none in structured mode. `body` is None for an event
    without data in binary mode, which is not the same as one with no bytes.
    """

    content_type: str
    headers: dict[str, str]
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Binding:
    """How one protocol names and writes attributes.

    content_type_is_header: `datacontenttype` is a header, too.
    has_trace_headers: readers look for the headers of W3C Trace Context.
    needs_body: a message must have a body and say its media type.
    """

    prefix: str
    escape: Callable[[str], str] = str
    content_type_is_header: bool = False
    has_trace_headers: bool = True
    needs_body: bool = False

    def is_structured(self, message: Message, mode: ContentMode) -> bool:
        """Return True if a message goes structured: by the mode, or as binary mode can't carry it.

        Readers take a body for the event itself if its media type is one of CloudEvents. Data of
        such a type, sent in binary mode, would replace the event.
        """
        if mode == "structured":
            return True
        content_type = message.data_content_type
        if content_type[: len(_EVENT_TYPES)].lower() == _EVENT_TYPES:
            return True
        if not self.needs_body or message.data_json is not None:
            return False
        return message.data_binary is None or not content_type

    def encode(self, message: Message, mode: ContentMode) -> WireMessage:
        """Return the message in a content mode; raises Rejected for data that can't be written."""
        if self.is_structured(message, mode):
            return WireMessage(STRUCTURED_TYPE, self.trace_headers(message), message.to_json())
        body, content_type = _data(message)
        prefix, escape = self.prefix, self.escape
        if escape is str:  # to call it takes as long as all the rest of this
            headers = {prefix + name: text for name, text in _attributes(message)}
        else:
            headers = {prefix + name: escape(text) for name, text in _attributes(message)}
        if content_type and self.content_type_is_header:
            headers[f"{self.prefix}datacontenttype"] = self.escape(content_type)
        if TRACEPARENT in message.extensions:
            headers |= self.trace_headers(message)
        return WireMessage(content_type, headers, body)

    def trace_headers(self, message: Message) -> dict[str, str]:
        """Return the headers of W3C Trace Context, none for an event without a trace."""
        return trace_headers(message, self.escape) if self.has_trace_headers else {}


class BindingBackend(MessageBackend):
    """A backend whose events travel by a protocol binding.

    content_mode: "structured", the whole event in the body, or "binary", its attributes as headers.
    """

    binding: Binding

    def __init__(self, *, content_mode: ContentMode = "structured", **options: Any) -> None:
        super().__init__(**options)
        self.content_mode = self.read.choice("content_mode", content_mode, CONTENT_MODES)

    def encode(self, message: Message) -> WireMessage:
        """Return the message in the backend's content mode; raises Rejected."""
        return self.binding.encode(message, self.content_mode)

    def destination_of(self, message: Message) -> Mapping[str, Any]:
        """Return where `show` says that the message goes: names of the broker's, with values."""
        return {}

    def show(self, message: Message) -> Shown:
        """Return the headers and the body as they are sent."""
        return self.shown(message, self.encode(message))

    def shown(self, message: Message, wire: WireMessage) -> Shown:
        """Return what `show` returns, for a message that is encoded already."""
        headers = {"content-type": wire.content_type} if wire.content_type else {}
        return Shown(self.destination_of(message), headers | wire.headers, wire.body)


KAFKA: Final = Binding("ce_")
AMQP: Final = Binding("cloudEvents_")
# CloudEvents has a binding for AMQP 1.0 alone. Readers made for RabbitMQ follow this one:
# https://github.com/knative-extensions/eventing-rabbitmq/blob/main/cloudevents-protocol-spec/spec.md
RABBITMQ: Final = Binding("ce-")
NATS: Final = Binding("ce-", percent_encoded, content_type_is_header=True)
MQTT: Final = Binding("", content_type_is_header=True)
# The rules for webhooks permit no request without a body, or without the body's media type:
# https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/http-webhook.md section 2.1.
HTTP: Final = Binding("ce-", percent_encoded, needs_body=True)
# There is no binding for SQS and SNS. Their attributes hold Unicode, as Kafka's headers do.
# A message has at most ten attributes, and none to spare.
AWS: Final = Binding(KAFKA.prefix, has_trace_headers=False, needs_body=True)
# There is no binding for Redis: fields are named as Kafka's headers, and the content type is one.
REDIS: Final = Binding(KAFKA.prefix, has_trace_headers=False)


def trace_headers(message: Message, escape: Callable[[str], str] = str) -> dict[str, str]:
    """Return an event's trace as the headers of W3C Trace Context, if it has one."""
    extensions = message.extensions
    if TRACEPARENT not in extensions:
        return {}
    names = [name for name in (TRACEPARENT, TRACESTATE) if name in extensions]
    return {name: escape(canonical(extensions[name])) for name in names}


def _attributes(message: Message) -> Iterator[tuple[str, str]]:
    """Yield each attribute but `datacontenttype` with its canonical text."""
    yield "specversion", SPEC_VERSION
    yield "id", message.event_id
    yield "source", message.source
    yield "type", message.event_type
    if message.subject:
        yield "subject", message.subject
    if message.time is not None:
        time = message.time
        yield "time", rfc3339(time if time.tzinfo in (UTC, None) else time.astimezone(UTC))
    if message.data_schema:
        yield "dataschema", message.data_schema
    for name, value in message.extensions.items():
        yield name, canonical(value)


def canonical(value: object) -> str:
    """Return an attribute's value as text: section 2.4 of the specification (type system)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _data(message: Message) -> tuple[bytes | None, str]:
    """Return the data's bytes, None without data, and their media type."""
    content_type = message.data_content_type
    if message.data_binary is not None:
        return bytes(message.data_binary), content_type
    if message.data_json is None:
        return None, content_type
    if not content_type or is_json_type(content_type):
        return message.data_json.encode(), content_type or "application/json"
    return _text(message.data_json, content_type), content_type


def _text(data_json: str, content_type: str) -> bytes:
    """Return text that is not JSON in the charset that its media type names, else in UTF-8."""
    text = orjson.loads(data_json)
    try:
        return str(text).encode(charset_of(content_type) or "utf-8")
    except (LookupError, UnicodeEncodeError) as error:
        raise Rejected(f"data: can't be written as {content_type!r}: {error}") from error
