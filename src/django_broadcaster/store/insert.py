"""Insert one row into the outbox by one statement, and return it without reading it again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

from django.db import DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.base import ModelState

from django_broadcaster.conf import conf
from django_broadcaster.events.json_format import parse_json
from django_broadcaster.models import OutboxEvent
from django_broadcaster.states import OutboxEventStatus

from .new_rows import (
    COLUMNS,
    UNTOUCHED,
    USUAL,
    NewRow,
    insert_sql,
    unusual_columns,
    values_of,
)
from .relay_sql import keeps_plans, relay_cursor

ATTEMPTS = 20
"""Attempts to write a row whose identity exists, but is deleted before it is read."""

_STATUSES = {status.value: status for status in OutboxEventStatus}
_FURTHER_VALUES = {
    "spec_version": "1.0",
    "published_at": None,
    "ended_at": None,
    "retry_count": 0,
    "crash_count": 0,
    "last_error": "",
}
"""The values that a new instance has beside those of its `NewRow`."""


def insert_event(connection: BaseDatabaseWrapper, row: NewRow) -> tuple[OutboxEvent, bool]:
    """Write one row by one statement; return it, and whether it is new.

    If a row with the same identity exists, that row is read and returned. If it is deleted in
    between, as with RETENTION zero, the new row is written.
    """
    for _ in range(ATTEMPTS):
        row_id = insert_row(connection, row)
        if row_id is not None:
            return instance_of(connection, row_id, row), True
        known = _published_before(connection, row)
        if known is not None:
            return known, False
    raise DatabaseError(
        f"event {row.event_id!r} was published before, but this transaction can't read its row; "
        "repeat the transaction"
    )


def insert_row(connection: BaseDatabaseWrapper, row: NewRow) -> int | None:
    """Write one row; return its id, or None if a row with its identity exists already."""
    unique = row.identity is not None
    statement, bound = _statement(
        connection.vendor, unusual_columns(row), unique, unique and conf.TIME_PARTITIONS is None
    )
    with _cursor(connection) as cursor:
        cursor.execute(statement, bound(values_of(row, connection)))
        if connection.vendor == "mysql":
            return int(cursor.lastrowid) if cursor.rowcount else None
        inserted = cursor.fetchone()
    return inserted[0] if inserted else None


def _cursor(connection: BaseDatabaseWrapper) -> Any:
    """Return Django's cursor, or one whose INSERT the server plans once, if that is allowed.

    Django's own cursor inserts the values into the text, which the server then plans each time:
    that takes half of its time for the statement. Logged queries need such a text.
    """
    if keeps_plans(connection) and not connection.queries_logged:
        return relay_cursor(connection, is_repeated=True)
    return connection.cursor()


@lru_cache
def _statement(
    vendor: str, unusual: tuple[str, ...], unique: bool, _in_one_table: bool
) -> tuple[str, Callable[[Sequence[Any]], Sequence[Any]]]:
    """Return the INSERT of one row, and the function that selects its parameters."""
    usual = {name: value for name, value in USUAL.items() if name not in unusual}
    columns = [name for name in COLUMNS if name not in usual]
    # A column that is left out is null.
    fixed = {name: f"'{value}'" for name, value in usual.items() if value is not None} | UNTOUCHED
    values = ", ".join(["%s"] * len(columns) + list(fixed.values()))
    statement = insert_sql(
        vendor,
        [*columns, *fixed],
        f"VALUES ({values})",
        unique=unique,
        returning="" if vendor == "mysql" else "id",
    )
    return statement, itemgetter(*map(COLUMNS.index, columns))


def _published_before(connection: BaseDatabaseWrapper, row: NewRow) -> OutboxEvent | None:
    """Return the row that has the identity of this one; None if it was deleted."""
    events = OutboxEvent.objects.using(connection.alias).filter(identity=row.identity)
    known = events.first()
    if known is None and connection.vendor == "mysql" and not connection.get_autocommit():
        # Committed after this transaction's snapshot: only a locking read sees it.
        known = events.select_for_update().first()
    return known


def instance_of(connection: BaseDatabaseWrapper, row_id: int, row: NewRow) -> OutboxEvent:
    """Return the inserted row as an instance, without reading it back.

    The instance is created as by unpickling: the constructor would take as long as all other Python
    code of a publish call.
    """
    values: dict[str, Any] = dict(zip(NewRow._fields, row, strict=True))
    values.update(_FURTHER_VALUES)
    values["_state"] = state = ModelState()
    state.db, state.adding = connection.alias, False
    values["id"] = row_id
    values["updated_at"] = row.created_at
    values["status"] = _STATUSES[row.status]
    values["extensions"] = _decoded(row.extensions)
    values["publisher_config"] = _decoded(row.publisher_config)
    values["data"] = None if row.data is None else parse_json(row.data)
    event = OutboxEvent.__new__(OutboxEvent)
    event.__dict__ = values
    return event


def _decoded(text: str) -> Any:
    return {} if text == "{}" else parse_json(text)
