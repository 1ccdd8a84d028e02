"""Blocked keys and dead letters, by queries whose cost is limited."""

from __future__ import annotations

from typing import NamedTuple

from django.db import connections

from .sql import EVENTS


class BlockedKey(NamedTuple):
    """A key whose event `head` waits for a retry, which blocks at least `behind` events."""

    key: str
    head: int
    behind: int


class SameError(NamedTuple):
    """Dead letters with the same beginning of their error; `newest` is the highest id."""

    error: str
    letters: int
    newest: int


_BLOCKED = "status = 'blocked'"
_WAITING = {"mysql": "status = 'retry'"}
"""The condition for the first event of a blocked key.

On MariaDB and MySQL, the status is the first column of the index. Elsewhere the index has both
statuses, and the first row of a key is in retry.
"""

ERROR_HEAD = 200
"""Characters by which errors are compared."""


def blocked_keys(using: str, backend: str, limit: int, most_behind: int) -> list[BlockedKey]:
    """Return the first `limit` blocked keys by name; count up to `most_behind` + 1 events each."""
    keys = _waiting_keys(using, backend, limit)
    if not keys:
        return []
    waiting = _WAITING.get(connections[using].vendor, "status IN ('retry', 'blocked')")
    # Conditions are ranges: with equalities, PostgreSQL might use the primary key for the order.
    of_key = (
        f"FROM {EVENTS} WHERE publisher_backend = %s AND partition_key >= %s "
        "AND partition_key <= %s AND {} ORDER BY publisher_backend, partition_key, id LIMIT"
    )
    one = (
        f"SELECT %s AS name, (SELECT id {of_key.format(waiting)} 1) AS head, "
        f"(SELECT COUNT(*) FROM (SELECT 1 AS one {of_key.format(_BLOCKED)} %s) counted) AS behind"
    )
    params = [
        value
        for key in keys
        for value in (key, backend, key, key, backend, key, key, most_behind + 1)
    ]
    with connections[using].cursor() as cursor:
        cursor.execute(" UNION ALL ".join([one] * len(keys)), params)
        # A key whose first event was delivered in the meantime has no head.
        return [BlockedKey(*row) for row in cursor.fetchall() if row[1] is not None]


def _waiting_keys(using: str, backend: str, limit: int) -> list[str]:
    """Return the first keys, by steps from each to the next in the index.

    DISTINCT would read all waiting events, and one key may block a million.
    """
    waiting = _WAITING.get(connections[using].vendor, "status IN ('retry', 'blocked')")
    step = (
        f"(SELECT partition_key FROM {EVENTS} WHERE publisher_backend = %s AND {waiting} "
        "AND partition_key > {after} ORDER BY publisher_backend, partition_key LIMIT 1)"
    )
    first, following = step.format(after="%s"), step.format(after="walk.name")
    sql = (
        f"WITH RECURSIVE walk (name, place) AS (SELECT {first}, 1 UNION ALL "
        f"SELECT {following}, place + 1 FROM walk WHERE walk.name IS NOT NULL AND place < %s) "
        "SELECT name FROM walk WHERE name IS NOT NULL"
    )
    with connections[using].cursor() as cursor:
        cursor.execute(sql, [backend, "", backend, limit])
        return [row[0] for row in cursor.fetchall()]


def same_errors(using: str, backend: str, newest: int) -> list[SameError]:
    """Return the `newest` dead letters grouped by the beginning of their errors, most first."""
    sql = (
        "SELECT error, COUNT(*), MAX(id) FROM (SELECT id, "
        f"SUBSTR(last_error, 1, {ERROR_HEAD}) AS error FROM {EVENTS} "
        "WHERE publisher_backend >= %s AND publisher_backend <= %s AND status = 'failed' "
        "ORDER BY publisher_backend DESC, id DESC LIMIT %s) AS newest "
        "GROUP BY error ORDER BY COUNT(*) DESC, MAX(id) DESC"
    )
    with connections[using].cursor() as cursor:
        cursor.execute(sql, [backend, backend, newest])
        return [SameError(*row) for row in cursor.fetchall()]
