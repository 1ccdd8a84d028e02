"""The limits of backends and databases for valid events."""

from __future__ import annotations

from typing import Any

import orjson
from django.db.backends.base.base import BaseDatabaseWrapper

from django_broadcaster.events import envelope, is_deeper
from django_broadcaster.exceptions import InvalidEvent, PayloadTooLarge, StatementTooLong
from django_broadcaster.store import (
    EventColumns,
    first_unstorable,
    growth,
    max_depth,
    max_statement,
    may_be_too_long,
    statement_bytes,
)

from .columns import characters

_BYTES_OF_A_CHARACTER = 4
_BYTES_OF_THE_FRAME = 256

_TEXTS = [
    (name, EventColumns._fields.index(name))
    for name in EventColumns._fields
    if name not in ("time", "data_binary", "sealed", "partition")
]
"""The columns of text, including JSON, and their positions."""


def check_depth(data: Any, data_json: str | None, connection: BaseDatabaseWrapper) -> None:
    """Raise InvalidEvent for valid JSON that this database does not accept."""
    levels = max_depth(connection)
    if levels is None or data_json is None:
        return
    if data_json.count("[") + data_json.count("{") > levels and is_deeper(data, levels):
        raise InvalidEvent(
            "data", f"is nested over {levels} levels deep, the limit of this database; flatten it"
        )


def check_characters(columns: EventColumns, connection: BaseDatabaseWrapper) -> None:
    """Raise InvalidEvent for a character that the database can't store."""
    texts = {name: columns[position] for name, position in _TEXTS}
    found = first_unstorable(texts, connection)  # type: ignore[arg-type]
    if found is not None:
        raise InvalidEvent(
            found.column,
            f"has the character U+{ord(found.character):04X}, which the database's character set "
            f"{found.charset} does not have; see the system check django_broadcaster.W006",
        )


def check_statement(
    columns: EventColumns, config_json: str, connection: BaseDatabaseWrapper
) -> None:
    """Raise StatementTooLong for an event for which MariaDB or MySQL would end the session."""
    if not may_be_too_long(characters(columns) + len(config_json), connection):
        return
    size, most = statement_bytes((*columns, config_json)), max_statement(connection)
    if size > most:
        raise StatementTooLong(connection.alias, size, most)


def check_size(
    alias: str, limit: int, columns: EventColumns, connection: BaseDatabaseWrapper
) -> None:
    """Raise PayloadTooLarge if the event is over the limit of its backend."""
    if most_bytes(columns) <= limit:
        return
    size = _size(columns, connection)
    if size > limit:
        raise PayloadTooLarge(alias, size, limit)


def _size(columns: EventColumns, connection: BaseDatabaseWrapper) -> int:
    """Return the bytes of the event in the CloudEvents JSON format, as the relay sends it."""
    extensions = orjson.loads(columns.extensions)
    if columns.partition_key:
        extensions["partitionkey"] = columns.partition_key
    message = envelope(
        id=columns.event_id,
        source=columns.source,
        event_type=columns.event_type,
        time=columns.time,
        subject=columns.subject,
        data_content_type=columns.data_content_type,
        data_schema=columns.data_schema,
        extensions=extensions,
        data_json=columns.data,
        data_binary=columns.data_binary,
    )
    return len(message) + growth(connection, columns.data or "")


def most_bytes(columns: EventColumns) -> int:
    """Return a size that the event can't exceed in the CloudEvents JSON format.

    It takes a tenth of the time of the exact size and nearly always suffices. A character takes up
    to four bytes, including escapes and the space that a database may add.
    """
    return _BYTES_OF_A_CHARACTER * characters(columns) + _BYTES_OF_THE_FRAME
