"""Frames of AMQP 0-9-1 become messages: https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf.

The client's own reading ends the connection over a message whose headers it can't read, and would
do so each time that the message is delivered again. Here such a message has a `problem`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from struct import Struct, unpack_from
from typing import Any, Final

import orjson

from django_broadcaster.backends.bindings import canonical
from django_broadcaster.backends.errors import client_module
from django_broadcaster.backends.rabbitmq.connection import CLIENT
from django_broadcaster.events.timestamps import rfc3339

DELIVER: Final = b"\x00\x3c\x00\x3c"
"""The class and the method of a delivery, 60 and 60."""

METHOD_FRAME, HEADER_FRAME, BODY_FRAME = 1, 2, 3

DELIVERY_COUNT: Final = "x-delivery-count"
"""The header in which a quorum queue counts the deliveries before this one."""

STREAM_OFFSET: Final = "x-stream-offset"
"""The header that each message of a stream has."""

_COUNTERS: Final = frozenset({DELIVERY_COUNT, "x-acquired-count"})
"""Headers that differ each time that a message is delivered."""

_TIMES: Final = frozenset({"ce-time", "cloudevents:time", "cloudevents_time"})
"""Headers of CloudEvents with a time."""

_ACK: Final = Struct(">BHIHHQBB")

# By their bits in the flags, in the order in which they are written.
_TEXTS_BEFORE_HEADERS: Final = ((1 << 15, "content_type"), (1 << 14, "content_encoding"))
_HEADERS: Final = 1 << 13
_OCTETS: Final = ((1 << 12, "delivery_mode"), (1 << 11, "priority"))
_TEXTS_BEFORE_TIME: Final = (
    (1 << 10, "correlation_id"),
    (1 << 9, "reply_to"),
    (1 << 8, "expiration"),
    (1 << 7, "message_id"),
)
_TIMESTAMP: Final = 1 << 6
_TEXTS_AFTER_TIME: Final = ((1 << 5, "type"), (1 << 4, "user_id"), (1 << 3, "app_id"))


@dataclass(slots=True)
class Incoming:
    """A message as the server delivered it.

    Args:
        tag: The delivery tag, which grows by one with each message of a channel.
        content_type: Its property; empty without one.
        headers: The properties by their names in AMQP, the exchange and the routing key, and the
            application's headers, as text.
        delivery_count: How often a quorum queue has delivered it before.
        is_of_stream: Whether it is a message of a stream.
        problem: Why its headers can't be read; empty if they can.
        body: The bytes of its body.
    """

    tag: int
    content_type: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    delivery_count: int = 0
    is_of_stream: bool = False
    problem: str = ""
    body: bytes = b""


class Assembler:
    """Puts the frames of deliveries together, on one channel."""

    def __init__(self) -> None:
        self._message: Incoming | None = None
        self._parts: list[bytes] = []
        self._missing = 0

    def takes(self, kind: int, payload: bytes) -> bool:
        """Return True if a frame belongs to a delivery; all others are the client's."""
        if kind == METHOD_FRAME:
            return payload[:4] == DELIVER
        return self._message is not None and kind in (HEADER_FRAME, BODY_FRAME)

    def feed(self, kind: int, payload: bytes) -> Incoming | None:
        """Return the message that a frame completes, None if more are to come."""
        if kind == METHOD_FRAME:
            self._message = _delivered(payload)
            self._parts = []
            return None
        message = self._message
        assert message is not None
        if kind == HEADER_FRAME:
            (self._missing,) = unpack_from(">Q", payload, 4)
            _read_properties(message, payload)
        else:
            self._parts.append(payload)
            self._missing -= len(payload)
        if self._missing > 0:
            return None
        message.body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._message = None
        return message


def acknowledgement(channel: int, tag: int, *, many: bool = False) -> bytes:
    """Return the frame that acknowledges a message, or all up to it."""
    return _ACK.pack(METHOD_FRAME, channel, 13, 60, 80, tag, many, 0xCE)


def _delivered(payload: bytes) -> Incoming:
    """Return a message with the arguments of a delivery."""
    _, offset = _short(payload, 4)  # the consumer's tag
    (tag,) = unpack_from(">Q", payload, offset)
    exchange, offset = _short(payload, offset + 9)  # after the tag and the flag for redeliveries
    routing_key, _ = _short(payload, offset)
    return Incoming(tag, headers={"exchange": exchange, "routing_key": routing_key})


def _read_properties(message: Incoming, payload: bytes) -> None:
    """Read the payload of a content header; a table that can't be read is skipped."""
    (flags,) = unpack_from(">H", payload, 12)
    offset, found, table = 14, message.headers, b""
    for bit, name in _TEXTS_BEFORE_HEADERS:
        if flags & bit:
            found[name], offset = _short(payload, offset)
    if flags & _HEADERS:
        (size,) = unpack_from(">I", payload, offset)
        table, offset = payload[offset : offset + 4 + size], offset + 4 + size
    for bit, name in _OCTETS:
        if flags & bit:
            found[name], offset = str(payload[offset]), offset + 1
    for bit, name in _TEXTS_BEFORE_TIME:
        if flags & bit:
            found[name], offset = _short(payload, offset)
    if flags & _TIMESTAMP:
        (seconds,) = unpack_from(">Q", payload, offset)
        found["timestamp"], offset = str(seconds), offset + 8
    for bit, name in _TEXTS_AFTER_TIME:
        if flags & bit:
            found[name], offset = _short(payload, offset)
    message.content_type = found.pop("content_type", "")
    if table:
        try:
            _add_headers(message, _table(table))
        except Exception as error:  # of the client, for a value that it does not know
            message.problem = f"the headers can't be read: {type(error).__name__}: {error}"


def _add_headers(message: Incoming, table: Mapping[Any, Any]) -> None:
    for name, value in table.items():
        text = name if isinstance(name, str) else bytes(name).decode(errors="backslashreplace")
        if text == DELIVERY_COUNT and isinstance(value, int):
            message.delivery_count = value
        message.is_of_stream |= text == STREAM_OFFSET
        if text not in _COUNTERS:
            is_time = type(value) is int and text.lower() in _TIMES
            message.headers[text] = _time(value) if is_time else _text(value)


def _time(milliseconds: int) -> str:
    """Return a time that a client has written as milliseconds since 1970."""
    try:
        return rfc3339(datetime.fromtimestamp(milliseconds / 1000, UTC))
    except (OverflowError, ValueError, OSError):
        return str(milliseconds)


def _text(value: Any) -> str:
    """Return the value of a header as text; tables and lists as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, datetime):
        return rfc3339(value.replace(tzinfo=UTC))
    if isinstance(value, dict | list):
        return orjson.dumps(value, default=_text, option=orjson.OPT_NON_STR_KEYS).decode()
    return "" if value is None else canonical(value)


def _table(table: bytes) -> Mapping[Any, Any]:
    (values,), _ = client_module(CLIENT, "amqp.serialization").loads("F", table, 0)
    found: Mapping[Any, Any] = values
    return found


def _short(payload: bytes, offset: int) -> tuple[str, int]:
    """Return a short string, and where the next value begins."""
    start = offset + 1
    end = start + payload[offset]
    return payload[start:end].decode(errors="backslashreplace"), end
