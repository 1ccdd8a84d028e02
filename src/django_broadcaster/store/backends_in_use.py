"""The backends whose events stand in the outbox, whatever the settings say.

An alias that was taken out of OUTBOX_PUBLISHERS, or that only the web processes know, has events
that no relay delivers: nobody would hear of them who asks about the configured ones alone.
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
"""The indexes that begin with the alias, and what is in each of them."""

_MYSQL = (
    f"SELECT alias FROM (SELECT DISTINCT status, publisher_backend AS alias "
    f"FROM {EVENTS} FORCE INDEX (broadcaster_pending)) AS pairs "
    "WHERE status NOT IN ('published', 'cancelled')"
)
"""There the state comes first in each index, which holds all rows: it is skipped through."""


def with_leftovers(using: str, configured: Collection[str]) -> list[str]:
    """Return the configured aliases, then the others with events undelivered or dead-lettered."""
    with connections[using].cursor() as cursor:
        cursor.execute(_MYSQL if connections[using].vendor == "mysql" else _skip_scan())
        in_use = {alias for (alias,) in cursor.fetchall() if alias is not None}
    return [*configured, *sorted(in_use.difference(configured))]


def _skip_scan() -> str:
    """Return a query of the aliases, each found by a seek in its index instead of a scan."""
    walks = ", ".join(_walk(name, condition) for name, condition in _WALKS.items())
    found = " UNION ".join(f"SELECT alias FROM {name}" for name in _WALKS)
    return f"WITH RECURSIVE {walks} {found}"


def _walk(name: str, condition: str) -> str:
    """Return a table of the aliases in an index, each the first one after the one before."""
    following = (
        f"SELECT publisher_backend FROM {EVENTS} WHERE {condition}{{}} "
        "ORDER BY publisher_backend LIMIT 1"
    )
    return (
        f"{name} (alias) AS (SELECT ({following.format('')}) UNION ALL "
        f"SELECT ({following.format(' AND publisher_backend > alias')}) "
        f"FROM {name} WHERE alias IS NOT NULL)"
    )
