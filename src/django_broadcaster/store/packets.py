"""How long a statement may be on MariaDB and MySQL: `max_allowed_packet`.

A longer one ends the session, and with it the caller's transaction, so it is never sent.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from django.db.backends.base.base import BaseDatabaseWrapper

REREAD_SECONDS = 60.0
"""How long the server's answer is believed."""

BYTES_OF_A_CHARACTER = 8
"""At most: four in UTF-8, and what has to be escaped has one byte."""

_FRAME = 4096
"""Bytes of a statement for one row that are no text of the caller's."""

_ESCAPED = b"\0\n\r\x1a\\'\""
_ASK_FROM = 100_000
"""Bytes that any server takes: the least that it can be told is less, but nobody does that."""

_asked: dict[tuple[str, ...], tuple[int, float]] = {}


def limits_statements(connection: BaseDatabaseWrapper) -> bool:
    """Return True if the server ends the session for a long statement."""
    return connection.vendor == "mysql"


def may_be_too_long(characters: int, connection: BaseDatabaseWrapper) -> bool:
    """Return True if a statement with this many characters has to be measured."""
    return limits_statements(connection) and characters * BYTES_OF_A_CHARACTER > _ASK_FROM


def max_statement(connection: BaseDatabaseWrapper) -> int:
    """Return the most bytes of a statement; asks the server now and then."""
    place = connection.settings_dict
    key = connection.alias, place["HOST"], str(place["PORT"]), str(place["NAME"])
    most, asked_at = _asked.get(key, (0, -REREAD_SECONDS))
    if time.monotonic() >= asked_at + REREAD_SECONDS:
        with connection.cursor() as cursor:
            cursor.execute("SELECT @@max_allowed_packet")
            most = int(cursor.fetchone()[0])
        _asked[key] = most, time.monotonic()
    return most


def statement_bytes(values: Iterable[object]) -> int:
    """Return about the bytes of a statement that writes one row with these values, escaped."""
    total = _FRAME
    for value in values:
        if isinstance(value, str):
            value = value.encode(errors="replace")
        if isinstance(value, bytes):
            total += len(value) + sum(map(value.count, (bytes([byte]) for byte in _ESCAPED)))
    return total
