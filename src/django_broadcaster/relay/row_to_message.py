"""A row of the outbox as a backend receives it."""

from __future__ import annotations

import orjson

from django_broadcaster.backends.base import Message
from django_broadcaster.store import PendingRow


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
        row.id,
    )
