"""MQTT 5's packets, as far as the backend and the consumer write and read them themselves.

https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html, of which the sections are named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from struct import pack
from typing import Final, NamedTuple

PUBACK: Final = 0x40
PINGRESP: Final = 0xD0
DISCONNECT: Final = 0xE0

PINGREQ_PACKET: Final = b"\xc0\x00"
DISCONNECT_PACKET: Final = b"\xe0\x00"

LONGEST_TEXT: Final = 2**16 - 1
"""The longest string of the protocol, in bytes of UTF-8 (1.5.4)."""

LONGEST_PACKET: Final = 5 + 2**28 - 1
"""The longest packet of the protocol, in bytes, with its fixed header (1.5.5, 2.1.4)."""

LONGEST_EXPIRY: Final = 2**32 - 1
"""The longest Message Expiry Interval, in seconds (3.3.2.3.3)."""

_PUBLISH_QOS_1: Final = 0x32
_EXPIRY: Final = b"\x02"
_CONTENT_TYPE: Final = b"\x03"
_USER_PROPERTY: Final = b"\x26"

# What 1.5.4 forbids, and what it lets a server take for a malformed packet.
_NO_TEXT = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


class Packet(NamedTuple):
    """A packet that came in: its type, such as PUBACK, all that follows its fixed header, and the
    flags in that.
    """

    kind: int
    body: bytes
    flags: int = 0


class Outgoing:
    """One message to publish with QoS 1, ready to be sent but for its packet identifier (3.3).

    size: bytes of the packet.
    is_own: whether the topic is the backend's, the same for all its events.
    """

    __slots__ = ("_after", "_before", "is_own", "size", "topic")

    def __init__(
        self, topic: bytes, properties: bytes, payload: bytes, *, retain: bool, is_own: bool
    ) -> None:
        self.topic = topic
        self.is_own = is_own
        self._after = properties + payload
        rest = 4 + len(topic) + len(self._after)
        head = bytes((_PUBLISH_QOS_1 | retain,)) + variable(rest)
        self.size = len(head) + rest
        self._before = head + pack("!H", len(topic)) + topic

    def packet(self, identifier: int) -> bytes:
        """Return the packet."""
        return b"".join((self._before, identifier.to_bytes(2), self._after))


def properties(content_type: str, user: Mapping[str, str], expiry: int | None = None) -> bytes:
    """Return the properties of a PUBLISH with their length; raises ValueError (2.2.2, 3.3.2.3).

    `expiry` is the Message Expiry Interval in seconds, up to `LONGEST_EXPIRY`.
    """
    parts = [_CONTENT_TYPE + string(content_type)] if content_type else []
    if expiry is not None:
        parts.append(_EXPIRY + pack("!I", expiry))
    parts += [_USER_PROPERTY + string(name) + string(value) for name, value in user.items()]
    packed = b"".join(parts)
    return variable(len(packed)) + packed


def string(text: str) -> bytes:
    """Return text with its length in front; raises ValueError where the protocol has no room."""
    if not is_text(text):
        raise ValueError(f"has a character that MQTT does not allow: {text[:100]!r}")
    encoded = text.encode()
    if len(encoded) > LONGEST_TEXT:
        raise ValueError(f"is longer than MQTT's {LONGEST_TEXT} bytes: {text[:100]!r}...")
    return pack("!H", len(encoded)) + encoded


def is_text(text: str) -> bool:
    """Return True if every server has to take these characters."""
    return _NO_TEXT.search(text) is None


def variable(number: int) -> bytes:
    """Return a number below 2**28 as a Variable Byte Integer (1.5.5)."""
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)


class Reader:
    """Cuts what comes in into packets."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Packet]:
        """Return the packets that are complete; raises ValueError for what is not MQTT."""
        data = self._rest + data
        packets, start = [], 0
        while (head := _fixed_header(data, start)) is not None:
            body, end = head
            if end > len(data):
                break
            packets.append(Packet(data[start] & 0xF0, data[body:end], data[start] & 0x0F))
            start = end
        self._rest = data[start:]
        return packets


def _fixed_header(data: bytes, start: int) -> tuple[int, int] | None:
    """Return where a packet's body begins and ends, or None if that is not known yet."""
    if len(data) < start + 2:
        return None
    length = data[start + 1]
    if length < 0x80:
        return start + 2, start + 2 + length
    length = 0
    for place, digit in enumerate(data[start + 1 : start + 5]):
        length |= (digit & 0x7F) << 7 * place
        if digit < 0x80:
            body = start + 2 + place
            return body, body + length
    if len(data) >= start + 5:
        raise ValueError("the server does not speak MQTT")
    return None
