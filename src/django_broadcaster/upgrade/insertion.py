"""Insert rows into the outbox by the fastest statement of each database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper

from django_broadcaster.store import is_partitioned, text_array

from .rows import Row

OUTBOX: Final = "django_broadcaster_outboxevent"

_MOMENTS: Final = (
    *("time", "scheduled_at", "created_at", "updated_at"),
    *("published_at", "ended_at"),
)
_TYPES: Final = {
    **dict.fromkeys(Row._fields, "text"),
    **dict.fromkeys(_MOMENTS, "timestamptz"),
    **dict.fromkeys(("extensions", "data", "publisher_config"), "jsonb"),
    **dict.fromkeys(("data_binary", "sealed"), "bytea"),
    **dict.fromkeys(("partition", "retry_count", "max_retries", "crash_count"), "integer"),
}
"""The columns' types on PostgreSQL, for values that are written as text."""


class Writer:
    """Inserts rows into the outbox of one database; events that exist are skipped."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection
        self._columns = ", ".join(map(connection.ops.quote_name, Row._fields))
        self._ends = " ON CONFLICT (identity) WHERE identity IS NOT NULL DO NOTHING"
        if connection.vendor == "mysql":
            # INSERT IGNORE would also hide other errors.
            self._ends = " ON DUPLICATE KEY UPDATE identity = identity"
        elif is_partitioned(connection.alias):
            self._ends = ""  # a trigger skips existing events

    def insert(self, rows: Sequence[Row]) -> None:
        """Insert rows by one statement, with ascending ids."""
        params: list[Any]
        if self._connection.vendor == "postgresql":
            arrays = ", ".join(f"%s::{_TYPES[name]}[]" for name in Row._fields)
            values = f"SELECT * FROM unnest({arrays})"
            params = [text_array(list(map(_text, column))) for column in zip(*rows, strict=True)]
        else:
            values = f"VALUES {', '.join([_PLACEHOLDERS] * len(rows))}"
            params = [value for row in rows for value in row]
        sql = f"INSERT INTO {OUTBOX} ({self._columns}) {values}{self._ends}"
        with self._connection.cursor() as cursor:
            cursor.execute(sql, params)


_PLACEHOLDERS: Final = f"({', '.join(['%s'] * len(Row._fields))})"


def _text(value: Any) -> str | None:
    """Return a value as text for PostgreSQL."""
    if value is None or isinstance(value, str):
        return value
    return f"\\x{value.hex()}" if isinstance(value, bytes) else str(value)
