"""The relay's own database connections, which no other code can reach.

Handlers, backends and receivers may leave a connection in any state: another schema, a role, a time
zone, an open transaction. They run in another thread (`separate_thread`), and Django's connections
belong to threads. So the threads of the relay only have to avoid Django's pools.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from django.db import connections

from django_broadcaster.idle_connections import has_pool

from .log_safety import loggable

logger = logging.getLogger("django_broadcaster.relay")


def use_own_connections() -> None:
    """Let the calling thread of the relay open its own connections where Django has a pool.

    A pool gives one connection to many threads, so a relay could wait for its handlers. Nothing is
    connected yet.
    """
    for alias in connections:
        connection = connections[alias]
        if has_pool(connection):
            kind = type(connection)
            unpooled = type(kind.__name__, (kind,), {"pool": None})
            connections[alias] = unpooled(connection.settings_dict, alias)


def warn_of_small_pool(using: str, backends: Sequence[str]) -> None:
    """Log a warning if handlers of different backends would wait for connections of a pool."""
    if not has_pool(connections[using]):
        return
    pool = connections[using].settings_dict["OPTIONS"]["pool"]
    options = {} if pool is True else pool
    size = options.get("max_size") or options.get("min_size", 4)  # psycopg's own default
    if size < len(backends):
        logger.warning(
            "The pool of database %r is limited to %d connections; %d backends need up to one each "
            "for handlers and signal receivers. Set OPTIONS['pool']['max_size'] to %d or more.",
            using,
            size,
            len(backends),
            len(backends),
        )


def drop_connection(using: str) -> None:
    """Close the thread's connection in any state; the next statement opens a new one."""
    try:
        connections[using].close()
    except Exception as error:
        # Django has dropped it anyway, and the caller needs a new one.
        logger.debug("Could not close the connection to database %r: %s.", using, loggable(error))


def drop_all_connections() -> None:
    """Close all connections of a thread that ends."""
    for alias in [connection.alias for connection in connections.all(initialized_only=True)]:
        drop_connection(alias)
