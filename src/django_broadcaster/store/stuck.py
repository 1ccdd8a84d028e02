"""What is stuck, in statements that stay cheap however much is: blocked keys and dead letters."""

from __future__ import annotations

from typing import NamedTuple

from django.db import connections

from .sql import EVENTS


class BlockedKey(NamedTuple):
    """A key whose event `head` waits for a retry; `behind` events wait for that, or more."""

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
"""How the first event of each waiting key is found: on MariaDB and MySQL the status comes first in
the index, elsewhere it holds both states and the first row of a key is the one in retry."""

ERROR_HEAD = 200
"""Characters of an error that are compared."""


def blocked_keys(using: str, backend: str, limit: int, most_behind: int) -> list[BlockedKey]:
    """Return the first `limit` keys that wait, by name; at most `most_behind` + 1 are counted."""
    keys = _waiting_keys(using, backend, limit)
    if not keys:
        return []
    waiting = _WAITING.get(connections[using].vendor, "status IN ('retry', 'blocked')")
    # Ranges of one value: PostgreSQL might else think that the primary key gives the order.
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
        # One that was delivered meanwhile has no head any more.
        return [BlockedKey(*row) for row in cursor.fetchall() if row[1] is not None]


def _waiting_keys(using: str, backend: str, limit: int) -> list[str]:
    """Return the first keys, by stepping from each to the next in the index.

    DISTINCT would read all events that wait, and there may be a million behind one key.
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
    """Return the `newest` dead letters by the beginning of their errors, most first."""
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
