"""The keys of a backend of which events wait in the table: later events must not overtake them.

Each publish call with keys pays for one query. On PostgreSQL it reads the backend's pending rows
by their partial index, up to `FIRST`. The index still has entries of rows that were delivered since
the last VACUUM, and the query passes over those as well.
"""

from __future__ import annotations

from collections.abc import Collection

from .sql import EVENTS, select

FIRST = 1000
"""Pending events that are searched.

With as many, every key counts as waiting. Each further event with a key then waits for the relay,
until it has caught up.
"""

_WAITING = (
    f"(SELECT partition_key FROM {EVENTS} WHERE status = 'pending' "
    "AND publisher_backend >= %s AND publisher_backend <= %s "
    f"ORDER BY publisher_backend, id LIMIT {FIRST}) UNION ALL "
    f"(SELECT partition_key FROM {EVENTS} WHERE status IN ('retry', 'blocked') "
    f"AND publisher_backend = %s AND partition_key = ANY(%s) LIMIT {FIRST})"
)
"""By the partial indexes: without a waiting event, no live row is read (PostgreSQL)."""


def keys_that_wait(using: str, alias: str, keys: Collection[str]) -> Collection[str]:
    """Return those of these keys of which an event waits, or may wait if many events do."""
    found = select(using, _WAITING, alias, alias, alias, list(keys))
    if len(found) >= FIRST:
        return keys
    return {key for (key,) in found}.intersection(keys)
