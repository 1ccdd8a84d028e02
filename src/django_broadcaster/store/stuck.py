"""Blocked keys and dead letters, by queries whose cost is limited."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from django.db import connections

from django_broadcaster.models.managers import stored_moment

from .sql import EVENTS


class BlockedKey(NamedTuple):
    """A key whose event `head` waits for a retry, which blocks `behind` events, or `more`."""

    key: str
    head: int
    behind: int
    more: bool = False


class _Part(NamedTuple):
    """Waiting events of a key: its first one in retry, the number of blocked ones, or `more`."""

    head: int | None
    blocked: int
    more: bool = False


class SameError(NamedTuple):
    """Dead letters with the same beginning of their error; `newest` is the highest id.

    `first_seen` and `last_seen` are when the first and the last of them became a dead letter.
    """

    error: str
    letters: int
    newest: int
    first_seen: datetime | None = None
    last_seen: datetime | None = None


_WALKS = {"mysql": ("status = 'retry'", "status = 'blocked'")}
"""The conditions of the walks that read all waiting events in the order of their keys.

On MariaDB and MySQL, the status is the first column of the index, so each status needs a walk.
"""

WINDOW = 2_000
"""Rows of one query, and the most events of a key that are counted."""

WINDOWS = 25
"""Maximum of queries of one walk."""

ERROR_HEAD = 200
"""Characters by which errors are compared."""


def blocked_keys(
    using: str, alias: str, window: int = WINDOW, windows: int = WINDOWS
) -> tuple[list[BlockedKey], bool]:
    """Return the blocked keys, those with the most events first, then the oldest.

    The cost has a limit, however many events wait. The second value is False if there are more
    keys than it allows to read.
    """
    parts: dict[str, list[_Part]] = {}
    is_all = True
    walks = _WALKS.get(connections[using].vendor, ("status IN ('retry', 'blocked')",))
    for condition in walks:
        found, ended = _walk(using, alias, condition, window, windows)
        is_all &= ended
        for key, part in found.items():
            parts.setdefault(key, []).append(part)
    keys = [
        BlockedKey(key, head, sum(p.blocked for p in each), any(p.more for p in each))
        for key, each in parts.items()
        # A key whose first event was delivered in the meantime has no head.
        if (head := next((p.head for p in each if p.head is not None), None)) is not None
    ]
    return sorted(keys, key=lambda each: (-each.behind, each.head)), is_all


def _walk(
    using: str, alias: str, condition: str, window: int, windows: int
) -> tuple[dict[str, _Part], bool]:
    """Return the waiting events by key, and whether these are all; each query reads a window.

    The last key of a window is read again by the next query, since the window may have cut it. A
    key that fills a window is counted no further.
    """
    sql = (
        "SELECT partition_key, MIN(CASE WHEN status = 'retry' THEN id END), "
        "SUM(CASE WHEN status = 'blocked' THEN 1 ELSE 0 END), COUNT(*) FROM ("
        f"SELECT partition_key, id, status FROM {EVENTS} WHERE publisher_backend = %s "
        f"AND {condition} AND partition_key {{}} %s "
        "ORDER BY publisher_backend, partition_key, id LIMIT %s) AS part "
        "GROUP BY partition_key ORDER BY partition_key"
    )
    found: dict[str, _Part] = {}
    start, comparison = "", ">"
    with connections[using].cursor() as cursor:
        for _ in range(windows):
            cursor.execute(sql.format(comparison), [alias, start, window])
            rows = cursor.fetchall()
            is_full = sum(row[3] for row in rows) >= window
            fills = is_full and len(rows) == 1
            if is_full:
                start, comparison = rows[-1][0], ">" if fills else ">="
            for key, head, blocked, _count in rows[:-1] if is_full and not fills else rows:
                found[key] = _Part(head, int(blocked), more=fills)
            if not is_full:
                return found, True
    return found, False


def same_errors(using: str, alias: str, newest: int) -> list[SameError]:
    """Return the `newest` dead letters grouped by the beginning of their errors, most first."""
    sql = (
        "SELECT error, COUNT(*), MAX(id), MIN(ended_at), MAX(ended_at) FROM (SELECT id, ended_at, "
        f"SUBSTR(last_error, 1, {ERROR_HEAD}) AS error FROM {EVENTS} "
        "WHERE publisher_backend >= %s AND publisher_backend <= %s AND status = 'failed' "
        "ORDER BY publisher_backend DESC, id DESC LIMIT %s) AS newest "
        "GROUP BY error ORDER BY COUNT(*) DESC, MAX(id) DESC"
    )
    with connections[using].cursor() as cursor:
        cursor.execute(sql, [alias, alias, newest])
        return [
            SameError(error, count, last, stored_moment(began, using), stored_moment(ended, using))
            for error, count, last, began, ended in cursor.fetchall()
        ]
