"""The packets of a subscriber: https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from struct import pack
from typing import Any, Final

from django_broadcaster.backends.mqtt.packets import Packet, string, variable

PUBLISH: Final = 0x30
SUBACK: Final = 0x90

QOS_1: Final = 1

_SUBSCRIBE: Final = 0x82
_PUBACK: Final = b"\x40\x02"

# Retained messages are sent once, when the subscription is made (3.8.3.1).
_SUBSCRIPTION_OPTIONS: Final = QOS_1 | 1 << 4

_CONTENT_TYPE, _RESPONSE_TOPIC, _CORRELATION_DATA, _USER_PROPERTY = 0x03, 0x08, 0x09, 0x26


@dataclass(slots=True)
class Incoming:
    """A message as the server sent it (3.3).

    Args:
        topic: The topic that it was published to.
        identifier: What names it in its acknowledgement; 0 for QoS 0, which has none.
        content_type: Its property; empty without one.
        headers: Its user properties, `response_topic` and `correlation_data`.
        problem: Why its properties can't be read; empty if they can.
        body: Its payload.
    """

    topic: str
    identifier: int
    content_type: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    problem: str = ""
    body: bytes = b""


def read_publish(packet: Packet) -> Incoming:
    """Read a PUBLISH packet; raises IndexError for one that ends too early."""
    data = packet.body
    topic, offset = _text(data, 0)
    identifier = 0
    if packet.flags >> 1 & 3:
        identifier, offset = int.from_bytes(data[offset : offset + 2]), offset + 2
    size, offset = _number(data, offset)
    message = Incoming(topic, identifier, body=data[offset + size :])
    try:
        _read_properties(message, data[offset : offset + size])
    except (IndexError, KeyError) as error:
        message.problem = f"the properties can't be read: {type(error).__name__}: {error}"
    return message


def subscribe(identifier: int, topic_filter: str) -> bytes:
    """Return the SUBSCRIBE packet for one filter, with QoS 1 (3.8)."""
    payload = string(topic_filter) + bytes((_SUBSCRIPTION_OPTIONS,))
    rest = pack("!HB", identifier, 0) + payload
    return bytes((_SUBSCRIBE,)) + variable(len(rest)) + rest


def acknowledgement(identifier: int) -> bytes:
    """Return the PUBACK packet for a message (3.4)."""
    return _PUBACK + identifier.to_bytes(2)


def suback_code(packet: Packet) -> tuple[int, int]:
    """Return the identifier and the reason code of a SUBACK for one filter (3.9)."""
    size, offset = _number(packet.body, 2)
    return int.from_bytes(packet.body[:2]), packet.body[offset + size]


def _read_properties(message: Incoming, data: bytes) -> None:
    offset = 0
    while offset < len(data):
        kind = data[offset]
        value, offset = _READERS[kind](data, offset + 1)
        if kind == _CONTENT_TYPE:
            message.content_type = value
        elif kind == _RESPONSE_TOPIC:
            message.headers["response_topic"] = value
        elif kind == _CORRELATION_DATA:
            message.headers["correlation_data"] = value
        elif kind == _USER_PROPERTY:
            message.headers[value], offset = _text(data, offset)


def _text(data: bytes, offset: int) -> tuple[str, int]:
    """Return a string or bytes as text, and where the next value begins."""
    start = offset + 2
    end = start + int.from_bytes(data[offset:start])
    if end > len(data):
        raise IndexError("a text is cut off")
    return data[start:end].decode(errors="backslashreplace"), end


def _number(data: bytes, offset: int) -> tuple[int, int]:
    """Return a Variable Byte Integer (1.5.5), and where the next value begins."""
    number = shift = 0
    while True:
        digit = data[offset]
        number |= (digit & 0x7F) << shift
        offset, shift = offset + 1, shift + 7
        if digit < 0x80:
            return number, offset


def _skip(size: int) -> Callable[[bytes, int], tuple[Any, int]]:
    return lambda _, offset: ("", offset + size)


_READERS: Final[Mapping[int, Callable[[bytes, int], tuple[Any, int]]]] = {
    0x01: _skip(1),  # payload format
    0x02: _skip(4),  # expiry: it differs each time
    0x23: _skip(2),  # topic alias
    0x0B: _number,  # subscription identifier
    **dict.fromkeys((_CONTENT_TYPE, _RESPONSE_TOPIC, _CORRELATION_DATA, _USER_PROPERTY), _text),
}
"""How to read each property of a PUBLISH (3.3.2.3)."""
