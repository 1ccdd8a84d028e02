"""Read the messages of the protocol bindings: headers and a body become attributes and data.

    structured   the content type begins with `application/cloudevents`; the body is the event
    binary       each attribute is a header, and the body is the data

https://github.com/cloudevents/spec/tree/v1.0.2/cloudevents/bindings. `backends/bindings.py` writes
these messages. Each function accepts headers as clients pass them: as a mapping or as pairs, and
text as `str` or bytes in UTF-8. They return unvalidated attributes by their names in the
specification, and data (ABSENT without any). They raise InvalidEvent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from reprlib import repr as shortened
from typing import Any, Final
from urllib.parse import unquote

from django_broadcaster.exceptions import InvalidEvent

from .absent import ABSENT
from .grammar import charset_of, is_json_type
from .json_format import parse_json, read_members

Headers = Mapping[str, Any] | Iterable[tuple[Any, Any]] | None
Body = bytes | bytearray | memoryview | str | None
Read = tuple[dict[str, Any], Any]

_EVENT: Final = "application/cloudevents+json"
_BATCH: Final = "application/cloudevents-batch"
_EVENTS: Final = "application/cloudevents"

_AMQP_PREFIXES: Final = ("ce-", "cloudevents_", "cloudevents:")
_NAME: Final = re.compile(r"[a-z0-9]+")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


def read_http(headers: Headers, body: Body) -> Read:
    """Read a request or a response of HTTP."""
    return _read(_prefixed(headers, "ce-", _http_value), _content_type_of(headers), body)


def read_kafka(headers: Headers, body: Body) -> Read:
    """Read a record: its headers and its value, which may be None."""
    return _read(_prefixed(headers, "ce_"), _content_type_of(headers), body)


def read_nats(headers: Headers, body: Body) -> Read:
    """Read a message of NATS; one without headers of CloudEvents, or any, is structured.

    In binary mode the media type of the data is an attribute, too. Clients and servers without
    headers send the JSON format alone.
    """
    attributes, content_type = _prefixed(headers, "ce-", _decoded), _content_type_of(headers)
    if not content_type and "specversion" not in attributes:
        content_type = _EVENT
    return _read(attributes, content_type, body)


def read_amqp(headers: Headers, body: Body, content_type: str | None) -> Read:
    """Read a message of RabbitMQ or AMQP 1.0; `content_type` is its property."""
    return _read(_prefixed(headers, _AMQP_PREFIXES, _amqp_value), content_type, body)


def read_mqtt(properties: Headers, body: Body, content_type: str | None) -> Read:
    """Read a message of MQTT 5; one of MQTT 3 has no properties and is always structured."""
    attributes = {
        name: value for name, value in _items(properties) if _NAME.fullmatch(name) is not None
    }
    if not content_type and "specversion" not in attributes:
        content_type = _EVENT
    return _read(attributes, content_type, body)


def _read(attributes: dict[str, Any], content_type: str | None, body: Body) -> Read:
    """Return attributes and data by the mode of a message, which depends on its content type."""
    kind = (content_type or "").strip()
    if kind[: len(_EVENTS)].lower() == _EVENTS:
        return _structured(kind, body)
    if "specversion" not in attributes:
        raise InvalidEvent(
            "event",
            "is not a CloudEvent: the message has no header for 'specversion', and its content "
            f"type is {shortened(kind)}, not {_EVENT}",
        )
    if kind:
        attributes.setdefault("datacontenttype", kind)
    return attributes, _data(str(attributes.get("datacontenttype") or ""), body)


def _structured(kind: str, body: Body) -> Read:
    media_type = kind.partition(";")[0].strip().lower()
    if media_type == _EVENT:
        return read_members(parse_json(b"" if body is None else body))
    if media_type.startswith(_BATCH):
        problem = "is a batch of events; read it with from_json_batch"
    else:
        problem = f"is in the format {shortened(media_type)}; the format read here is {_EVENT}"
    raise InvalidEvent("event", problem)


def _data(content_type: str, body: Body) -> Any:
    """Return the data of a body in binary mode, ABSENT for an empty body that can't be data."""
    if body is None:
        return ABSENT
    raw = body.encode() if isinstance(body, str) else bytes(body)
    if not content_type:
        return raw or ABSENT
    if is_json_type(content_type):
        return _json(raw) if raw else ABSENT
    charset = charset_of(content_type)
    if charset is None:
        return raw
    try:
        return raw.decode(charset)
    except (LookupError, ValueError):  # an unknown charset, or bytes that are invalid in it
        return raw


def _json(raw: bytes) -> Any:
    try:
        return parse_json(raw)
    except InvalidEvent as error:
        raise InvalidEvent("data", error.message) from error


# --- Headers -------------------------------------------------------------------------------------


def _prefixed(
    headers: Headers, prefix: str | tuple[str, ...], decode: Any = lambda name, value: value
) -> dict[str, Any]:
    """Return the attributes among headers: names without their prefix, in lower case."""
    prefixes = (prefix,) if isinstance(prefix, str) else prefix
    attributes = {}
    for header, value in _items(headers):
        lower = header.lower()
        for each in prefixes:
            if lower.startswith(each):
                name = lower[len(each) :]
                attributes[name] = decode(name, value)
    return attributes


def _content_type_of(headers: Headers) -> str | None:
    """Return the header `content-type`."""
    for header, value in _items(headers):
        if header.lower() == "content-type":
            return str(value)
    return None


def _items(headers: Headers) -> Iterator[tuple[str, Any]]:
    """Yield names and values; bytes are UTF-8, and naive times are in UTC, as those of AMQP."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers or ()
    for header, value in pairs:
        name = _text("event", header)
        if isinstance(value, bytes | bytearray | memoryview):
            value = _text(name, value)
        elif isinstance(value, datetime) and value.tzinfo is None:
            value = value.replace(tzinfo=UTC)
        yield name, value


def _text(name: str, value: Any) -> str:
    try:
        return value if isinstance(value, str) else bytes(value).decode()
    except (TypeError, UnicodeDecodeError) as error:
        raise InvalidEvent("event", f"has a header that is not text in UTF-8: {name}") from error


def _amqp_value(name: str, value: Any) -> Any:
    """Return a value of AMQP; some clients return timestamps as milliseconds since 1970."""
    if name != "time" or type(value) is not int:
        return value
    try:
        return datetime.fromtimestamp(value / 1000, UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise InvalidEvent("time", f"{value} is not a time of AMQP: {error}") from error


def _http_value(name: str, value: Any) -> Any:
    """Return a value without HTTP's quotes (RFC 9110, 5.6.4) and percent-encoding."""
    if isinstance(value, str) and (quoted := _QUOTED.fullmatch(value)):
        value = _ESCAPED.sub(r"\1", quoted[1])
    return _decoded(name, value)


def _decoded(name: str, value: Any) -> Any:
    """Return a value without its percent-encoding; raises InvalidEvent if it is not UTF-8."""
    if not isinstance(value, str) or "%" not in value:
        return value
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidEvent("event", f"has a header that is not text in UTF-8: {name}") from error
