"""A new row of the outbox as plain values: JSON is text, and every column has a value."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from hashlib import sha256
from operator import itemgetter
from typing import Any, NamedTuple

import orjson
from django.db.backends.base.base import BaseDatabaseWrapper

from django_broadcaster.conf import conf

from .sql import EVENTS


class EventColumns(NamedTuple):
    """The columns that are the same in every row of an event; `sealed` are its encrypted data."""

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
    partition: int


class NewRow(NamedTuple):
    """A row to be inserted: the columns of its event, and those of its delivery.

    A row is not written if another one with its `identity` exists.
    """

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
    partition: int
    publisher_config: str
    status: str
    scheduled_at: datetime
    max_retries: int
    created_at: datetime
    publisher_backend: str
    identity: str | None


def identity_of(source: str, event_id: str, alias: str) -> str:
    """Return the digest that makes a row unique if the caller passed the event id."""
    return sha256("\0".join((source, event_id, alias)).encode()).hexdigest()


COLUMNS = (*NewRow._fields, "updated_at")
"""The columns of a new row that take a value; `updated_at` is `created_at` then."""

UNTOUCHED = {"retry_count": "0", "crash_count": "0", "last_error": "''"}
"""Further columns of every new row, with their values in SQL."""

USUAL = {
    "subject": "",
    "data_content_type": "application/json",
    "data_schema": "",
    "extensions": "{}",
    "data_binary": None,
    "sealed": None,
    "publisher_config": "{}",
    "status": "pending",
    "identity": None,
}
"""The values that most rows have in these columns. A statement for one row binds only others."""

_in_usual_columns = itemgetter(*map(NewRow._fields.index, USUAL))
_USUAL_VALUES = tuple(USUAL.values())


def unusual_columns(row: NewRow) -> tuple[str, ...]:
    """Return the columns of `USUAL` in which the row has another value."""
    values = _in_usual_columns(row)
    if values == _USUAL_VALUES:
        return ()
    return tuple(name for name, value in zip(USUAL, values, strict=True) if value != USUAL[name])


MOMENTS = ("time", "scheduled_at", "created_at")
_TIME, _SCHEDULED_AT, _CREATED_AT = map(NewRow._fields.index, MOMENTS)


def values_of(row: NewRow, connection: BaseDatabaseWrapper) -> list[Any]:
    """Return the values of `COLUMNS` for the database's driver."""
    values: list[Any] = list(row)
    values[_CREATED_AT] = created_at = moment_of(row.created_at, connection)
    for position in (_TIME, _SCHEDULED_AT):
        moment = row[position]
        # It is often the same one, and formatting takes longer than comparing.
        same = moment is row.created_at
        values[position] = created_at if same else moment_of(moment, connection)
    values.append(created_at)
    return values


def moment_of(moment: Any, connection: BaseDatabaseWrapper) -> Any:
    """Return a datetime for the database's driver."""
    if moment is None:
        return None
    if connection.vendor == "postgresql":
        return text_of(moment)  # the driver takes ten times as long for the same
    return connection.ops.adapt_datetimefield_value(moment)


def text_of(moment: datetime) -> str:
    """Return a datetime in ISO 8601, which PostgreSQL reads, too."""
    return orjson.dumps(moment, datetime.isoformat)[1:-1].decode()


def insert_sql(
    vendor: str,
    columns: Iterable[str],
    values: str,
    *,
    unique: bool,
    returning: str = "",
) -> str:
    """Return an INSERT of these columns; a `unique` one skips rows whose identity exists already.

    In time partitions a trigger does that, because no index covers all of them.
    """
    quote = "`" if vendor == "mysql" else '"'  # `partition` is a reserved word there
    names = ", ".join(f"{quote}{name}{quote}" for name in columns)
    ignore = ends = ""
    if unique and vendor == "mysql":
        ignore = " IGNORE"
    elif unique and (vendor != "postgresql" or conf.TIME_PARTITIONS is None):
        ends = " ON CONFLICT (identity) WHERE identity IS NOT NULL DO NOTHING"
    if returning:
        ends += f" RETURNING {returning}"
    return f"INSERT{ignore} INTO {EVENTS} ({names}) {values}{ends}"
