"""Transactions of several connections at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TypeVar

from django.db import connections

T = TypeVar("T")
Start = Callable[[Callable[[], T]], "Future[T]"]


@contextmanager
def threads(count: int) -> Iterator[Start[T]]:
    """Run functions in threads, each with connections of its own that are closed behind it."""

    def with_connections(function: Callable[[], T]) -> T:
        try:
            return function()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as pool:
        yield lambda function: pool.submit(with_connections, function)


def waits_for_lock(database: str) -> bool:
    """Tell whether any transaction waits for another one; on SQLite nobody can see it."""
    query = {
        "postgresql": (
            "SELECT 1 FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ),
        # Not from innodb_trx: it shows the same as long as it is read every tenth of a second.
        "mysql": (
            "SELECT 1 FROM information_schema.processlist WHERE db = DATABASE() "
            "AND command = 'Query' AND time_ms > 100 "
            "AND info RLIKE '^(INSERT|UPDATE|DELETE)|FOR UPDATE$'"
        ),
        "sqlite": "SELECT 1",
    }[connections[database].vendor]
    # Not on the thread's own connection: PostgreSQL shows a transaction the same list every time.
    with closing(connections[database].copy()) as other, other.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone() is not None
