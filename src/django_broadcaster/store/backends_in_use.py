"""The backends that have events in the outbox, configured or not.

If an alias was removed from OUTBOX_PUBLISHERS, or is set in the web processes only, no relay
delivers its events. Queries about the configured aliases alone would hide them.
"""

from __future__ import annotations

from collections.abc import Collection

from django.db import connections

from .sql import EVENTS

_WALKS = {
    "broadcaster_pending": "status = 'pending'",
    "broadcaster_due": "status IN ('scheduled', 'retry')",
    "broadcaster_waiting": "status IN ('retry', 'blocked')",
    "broadcaster_failed": "status = 'failed'",
}
"""The indexes that begin with the alias, each with its condition."""

_MYSQL = (
    f"SELECT alias FROM (SELECT DISTINCT status, publisher_backend AS alias "
    f"FROM {EVENTS} FORCE INDEX (broadcaster_pending)) AS pairs "
    "WHERE status NOT IN ('published', 'cancelled')"
)
"""On MariaDB and MySQL, the status is the first column of the index, which has all rows.

The loose index scan of DISTINCT skips from one pair of status and alias to the next.
"""


def with_leftovers(using: str, configured: Collection[str]) -> list[str]:
    """Return the configured aliases, then others with undelivered events or dead letters."""
    with connections[using].cursor() as cursor:
        cursor.execute(_MYSQL if connections[using].vendor == "mysql" else _skip_scan())
        in_use = {alias for (alias,) in cursor.fetchall() if alias is not None}
    return [*configured, *sorted(in_use.difference(configured))]


def _skip_scan() -> str:
    """Return a query that finds each alias by a seek in an index, without a scan."""
    walks = ", ".join(_walk(name, condition) for name, condition in _WALKS.items())
    found = " UNION ".join(f"SELECT alias FROM {name}" for name in _WALKS)
    return f"WITH RECURSIVE {walks} {found}"


def _walk(name: str, condition: str) -> str:
    """Return a recursive table expression that steps through the aliases in an index."""
    following = (
        f"SELECT publisher_backend FROM {EVENTS} WHERE {condition}{{}} "
        "ORDER BY publisher_backend LIMIT 1"
    )
    return (
        f"{name} (alias) AS (SELECT ({following.format('')}) UNION ALL "
        f"SELECT ({following.format(' AND publisher_backend > alias')}) "
        f"FROM {name} WHERE alias IS NOT NULL)"
    )
