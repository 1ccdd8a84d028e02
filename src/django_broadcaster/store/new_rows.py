"""A row on its way into the outbox, as plain values: JSON is text, and nothing is a default."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import Any, NamedTuple

import orjson
from django.db.backends.base.base import BaseDatabaseWrapper

from django_broadcaster.conf import conf

from .sql import EVENTS


class EventColumns(NamedTuple):
    """What is the same in every row of an event; with `sealed`, its data are in there."""

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

    A row with an `identity` that stands in the table already is not written again.
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


def identity_of(source: str, event_id: str, backend: str) -> str:
    """Return the digest by which a row is unique whose event id the caller gave."""
    return sha256("\0".join((source, event_id, backend)).encode()).hexdigest()


_UNTOUCHED = {"retry_count": "0", "crash_count": "0", "last_error": "''"}
"""Further columns of every new row, in SQL."""

COLUMNS = (*NewRow._fields, "updated_at")
"""The columns of a new row that take a value; `updated_at` is `created_at` then."""

UNTOUCHED = ", ".join(_UNTOUCHED.values())
PLACEHOLDERS = f"({', '.join(['%s'] * len(COLUMNS))}, {UNTOUCHED})"
"""The values of one row, in SQL."""

MOMENTS = ("time", "scheduled_at", "created_at")
_TIME, _SCHEDULED_AT, _CREATED_AT = map(NewRow._fields.index, MOMENTS)


def values_of(row: NewRow, connection: BaseDatabaseWrapper) -> list[Any]:
    """Return the values of `COLUMNS` as the database's driver takes them."""
    values: list[Any] = list(row)
    values[_CREATED_AT] = created_at = moment_of(row.created_at, connection)
    for position in (_TIME, _SCHEDULED_AT):
        moment = row[position]
        # It is often the same one, and to write it takes longer than to look.
        same = moment is row.created_at
        values[position] = created_at if same else moment_of(moment, connection)
    values.append(created_at)
    return values


def moment_of(moment: Any, connection: BaseDatabaseWrapper) -> Any:
    """Return a moment as the database's driver takes it."""
    if moment is None:
        return None
    if connection.vendor == "postgresql":
        return text_of(moment)  # the driver takes ten times as long to come to the same
    return connection.ops.adapt_datetimefield_value(moment)


def text_of(moment: datetime) -> str:
    """Return a moment in ISO 8601, as PostgreSQL reads it too."""
    return orjson.dumps(moment, datetime.isoformat)[1:-1].decode()


def insert_sql(vendor: str, values: str, *, unique: bool, returning: str = "") -> str:
    """Return an INSERT; a `unique` one leaves out rows whose identity stands already.

    In time partitions a trigger does that: there is no index over all of them.
    """
    quote = "`" if vendor == "mysql" else '"'  # `partition` is a reserved word there
    columns = ", ".join(f"{quote}{name}{quote}" for name in (*COLUMNS, *_UNTOUCHED))
    ignore = ends = ""
    if unique and vendor == "mysql":
        ignore = " IGNORE"
    elif unique and (vendor != "postgresql" or conf.TIME_PARTITIONS is None):
        ends = " ON CONFLICT (identity) WHERE identity IS NOT NULL DO NOTHING"
    if returning:
        ends += f" RETURNING {returning}"
    return f"INSERT{ignore} INTO {EVENTS} ({columns}) {values}{ends}"
