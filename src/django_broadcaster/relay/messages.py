"""A row of the outbox as a backend receives it."""

from __future__ import annotations

import orjson

from django_broadcaster.backends.base import Message
from django_broadcaster.events.timestamps import in_utc
from django_broadcaster.store import DatabaseClock, PendingRow


def message_of(row: PendingRow) -> Message:
    """Return the row as a backend receives it, its data still text."""
    extensions = {} if row.extensions == "{}" else orjson.loads(row.extensions)
    if row.partition_key:
        extensions["partitionkey"] = row.partition_key
    return Message(
        row.event_id,
        row.source,
        row.event_type,
        row.subject,
        row.time,
        row.data_content_type,
        row.data_schema,
        extensions,
        row.data,
        row.data_binary,
        row.partition_key,
        {} if row.publisher_config == "{}" else orjson.loads(row.publisher_config),
        row.retry_count + 1,
    )


def has_expired(row: PendingRow, clock: DatabaseClock) -> bool:
    """Return True if the row's event has the extension `expirytime`, and that time has passed.

    https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/expirytime.md
    """
    if '"expirytime"' not in row.extensions:  # as in nearly every event: nothing is decoded
        return False
    try:
        moment = orjson.loads(row.extensions).get("expirytime")
        return moment is not None and in_utc(moment).timestamp() <= clock.timestamp()
    except (AttributeError, TypeError, ValueError, OverflowError):  # no valid time: it is sent
        return False
