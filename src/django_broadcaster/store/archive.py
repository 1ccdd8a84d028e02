"""Statements that read events for an archive, or copy them into the archive table."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connections
from django.utils import timezone

from django_broadcaster.models.managers import stored_moment

from .sql import ARCHIVE, EVENTS, JSON_COLUMNS


class StoredRow(NamedTuple):
    """A row of the outbox. JSON columns are undecoded text.

    If the payload is encrypted, `sealed` has the data.
    """

    id: int
    event_id: str
    source: str
    event_type: str
    subject: str
    time: datetime | None
    data_content_type: str
    data_schema: str
    extensions: str
    data: str | None
    data_binary: bytes | None
    sealed: bytes | None
    partition_key: str
    publisher_backend: str
    publisher_config: str
    status: str
    scheduled_at: datetime
    created_at: datetime
    published_at: datetime | None
    ended_at: datetime | None
    retry_count: int
    last_error: str


_MOMENTS = ("time", "scheduled_at", "created_at", "published_at", "ended_at")


def read_stored(using: str, ids: Collection[int]) -> list[StoredRow]:
    """Return the existing events with these ids, in order of their ids."""
    if not ids:
        return []
    text = "::text" if connections[using].vendor == "postgresql" else ""
    columns = ", ".join(f"{n}{text}" if n in JSON_COLUMNS else n for n in StoredRow._fields)
    sql = f"SELECT {columns} FROM {EVENTS} WHERE id IN ({_marks(ids)}) ORDER BY id"
    with connections[using].cursor() as cursor:
        cursor.execute(sql, list(ids))
        return [_converted(StoredRow._make(row), using) for row in cursor.fetchall()]


def _converted(row: StoredRow, using: str) -> StoredRow:
    """Return a row with aware moments and with binary data as bytes, whatever the driver."""
    values: dict[str, Any] = {name: stored_moment(getattr(row, name), using) for name in _MOMENTS}
    for name in ("data_binary", "sealed"):
        if (binary := getattr(row, name)) is not None:
            values[name] = bytes(binary)
    return row._replace(**values)


def copy_to_archive(using: str, ids: Collection[int]) -> int:
    """Copy the events with these ids into the archive table; return how many.

    The database copies them, so no payload is sent to this process.
    """
    columns = ", ".join(StoredRow._fields[1:])
    row = connections[using].ops.quote_name("row")
    sql = (
        f"INSERT INTO {ARCHIVE} ({row}, {columns}, archived_at) "
        f"SELECT id, {columns}, %s FROM {EVENTS} WHERE id IN ({_marks(ids)}) ORDER BY id"
    )
    now = connections[using].ops.adapt_datetimefield_value(timezone.now())
    with connections[using].cursor() as cursor:
        cursor.execute(sql, [now, *ids])
        return int(cursor.rowcount)


def _marks(ids: Collection[int]) -> str:
    return ", ".join(["%s"] * len(ids))
