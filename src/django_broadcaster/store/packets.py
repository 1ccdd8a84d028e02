"""The maximum length of a statement on MariaDB and MySQL: `max_allowed_packet`.

A longer statement would end the session and with it the caller's transaction, so it is not sent.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from django.db.backends.base.base import BaseDatabaseWrapper

REREAD_SECONDS = 60.0
"""Seconds for which the server's limit is cached."""

BYTES_OF_A_CHARACTER = 8
"""Maximum of a character's bytes, with a margin: four in UTF-8; escapes double one byte."""

_FRAME = 4096
"""Maximum of bytes in a statement for one row, besides the caller's values."""

_ESCAPED = b"\0\n\r\x1a\\'\""
_ASK_FROM = 100_000
"""Bytes that every usual server accepts; the lowest possible limit is smaller."""

_asked: dict[tuple[str, ...], tuple[int, float]] = {}


def limits_statements(connection: BaseDatabaseWrapper) -> bool:
    """Return True if the server ends the session at a statement that is too long."""
    return connection.vendor == "mysql"


def may_be_too_long(characters: int, connection: BaseDatabaseWrapper) -> bool:
    """Return True if a statement with this many characters may be too long."""
    return limits_statements(connection) and characters * BYTES_OF_A_CHARACTER > _ASK_FROM


def max_statement(connection: BaseDatabaseWrapper) -> int:
    """Return the maximum of a statement's bytes; query the server every REREAD_SECONDS."""
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
    """Return the approximate bytes of a statement that inserts a row with these values."""
    total = _FRAME
    for value in values:
        if isinstance(value, str):
            value = value.encode(errors="replace")
        if isinstance(value, bytes):
            total += len(value) + sum(map(value.count, (bytes([byte]) for byte in _ESCAPED)))
    return total
