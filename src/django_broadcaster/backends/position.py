"""The rows of a relay's last transaction, as a broker keeps them together with the events.

After a crash they show which events of the last batch the broker has.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Final
from zlib import crc32

MOST_ROWS: Final = 500
"""Rows of a position whose text has fewer characters than Kafka allows by default."""

MOST_CHARACTERS: Final = 4000
"""Kafka's default is 4,096 (`offset.metadata.max.bytes`)."""

Position = Mapping[int, int]
"""The ids of rows, each with the mark of its event."""

_VERSION: Final = "1"
_MARK_BYTES: Final = 2


def mark_of(event_id: str) -> int:
    """Return the mark of an event.

    If a database was restored from a backup, another event may have the id of its row.
    """
    return crc32(event_id.encode()) & 0xFFFF


def encode(sequence: int, position: Position) -> str:
    """Return a position as text; `sequence` is the number of the transaction."""
    numbers, marks, last = bytearray(), bytearray(), 0
    for row_id, mark in sorted(position.items()):
        distance, last = row_id - last, row_id
        while distance > 0x7F:
            numbers.append(distance & 0x7F | 0x80)
            distance >>= 7
        numbers.append(distance)
        marks += mark.to_bytes(_MARK_BYTES)
    text = base64.b85encode(bytes(numbers + marks)).decode()
    return f"{_VERSION} {sequence} {len(position)} {text}"


def decode(text: str) -> tuple[int, Position]:
    """Return the number of the transaction, and its position.

    Raises:
        ValueError: The text is not a position of this version.
    """
    version, sequence, count, encoded = text.split(" ")
    if version != _VERSION:
        raise ValueError(f"version {version}")
    data = base64.b85decode(encoded)
    at = len(data) - int(count) * _MARK_BYTES
    position: dict[int, int] = {}
    row_id = distance = shift = 0
    for byte in data[:at]:
        distance |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            row_id += distance
            position[row_id] = int.from_bytes(data[at : at + _MARK_BYTES])
            at += _MARK_BYTES
            distance = shift = 0
    return int(sequence), position
