"""The way into the outbox: one row, one statement, and the instance without reading it back."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_broadcaster.events.json_format import parse_json

from .tables import EVENTS, JSON_COLUMNS

if TYPE_CHECKING:
    from django_broadcaster.models import OutboxEvent

_MOMENTS = ("time", "scheduled_at", "created_at")
_INSERTED = (
    *("event_id", "source", "event_type", "subject", "time", "data_content_type", "data_schema"),
    *("extensions", "data", "data_binary", "identity", "partition_key", "partition"),
    *("publisher_backend", "publisher_config", "status", "scheduled_at", "created_at"),
    "max_retries",
)
_UNTOUCHED = {"published_at": None, "retry_count": 0, "crash_count": 0, "last_error": ""}


def identity_of(source: str, event_id: str, backend: str) -> str:
    """Return the digest by which a row is unique whose event id the caller gave."""
    return sha256("\0".join((source, event_id, backend)).encode()).hexdigest()


def insert_event(
    model: type[OutboxEvent], using: str, row: Mapping[str, Any]
) -> tuple[OutboxEvent, bool]:
    """Write one row in one statement; return it, and whether it is new.

    `row` has a value for each of `_INSERTED`; JSON columns are text. A row with an `identity` that
    stands there already is not written again: that one is read and returned.
    """
    row_id = _insert(connections[using], row)
    if row_id is None:
        return _published_before(model, using, row), False
    return _instance(model, using, row_id, row), True


def _insert(connection: BaseDatabaseWrapper, row: Mapping[str, Any]) -> int | None:
    """Insert a row; return its id, or None if its identity stands there already."""
    adapt = connection.ops.adapt_datetimefield_value
    values = [adapt(row[name]) if name in _MOMENTS else row[name] for name in _INSERTED]
    with connection.cursor() as cursor:
        cursor.execute(_statement(connection.vendor, row["identity"] is not None), values)
        if connection.vendor == "mysql":
            return int(cursor.lastrowid) if cursor.rowcount else None
        inserted = cursor.fetchone()
    return inserted[0] if inserted else None


@cache
def _statement(vendor: str, unique: bool) -> str:
    """Return the INSERT; a `unique` one does nothing where its identity stands already."""
    quote = "`" if vendor == "mysql" else '"'  # `partition` is a reserved word there
    columns = ", ".join(
        f"{quote}{name}{quote}" for name in (*_INSERTED, "retry_count", "crash_count", "last_error")
    )
    values = f"{', '.join(['%s'] * len(_INSERTED))}, 0, 0, ''"
    ignore = ends = ""
    if vendor == "mysql":
        ignore = " IGNORE" if unique else ""
    elif unique:
        ends = " ON CONFLICT (identity) WHERE identity IS NOT NULL DO NOTHING RETURNING id"
    else:
        ends = " RETURNING id"
    return f"INSERT{ignore} INTO {EVENTS} ({columns}) VALUES ({values}){ends}"


def _published_before(model: type[OutboxEvent], using: str, row: Mapping[str, Any]) -> OutboxEvent:
    """Return the row whose identity stands in the way of this one."""
    events = model.objects.using(using).filter(identity=row["identity"])
    known = events.first()
    if known is None and connections[using].vendor == "mysql":
        # Committed after this transaction's snapshot: only a locking read sees it.
        known = events.select_for_update().first()
    if known is None:
        raise DatabaseError(
            f"event {row['event_id']!r} was published by a transaction that this one can't see"
        )
    return known


def _instance(
    model: type[OutboxEvent], using: str, row_id: int, row: Mapping[str, Any]
) -> OutboxEvent:
    """Return the inserted row as an instance, without reading it back."""
    decoded = {name: parse_json(row[name]) for name in JSON_COLUMNS if row[name] is not None}
    values = {"id": row_id, **_UNTOUCHED, **row, **decoded}
    names = [field.attname for field in model._meta.concrete_fields]
    return model.from_db(using, names, [values[name] for name in names])
