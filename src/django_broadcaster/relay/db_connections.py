"""Database connections of the relay's own, which no other code can reach.

Handlers, backends and receivers may leave anything behind on a connection: another schema, a role,
a time zone, an open transaction. They run in another thread (`separate_thread`), and Django's
connections belong to threads. So all that is left for the threads of the relay is to stay out of
Django's pools.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from django.db import connections

from django_broadcaster.idle_connections import has_pool

from .log_safety import loggable

logger = logging.getLogger("django_broadcaster.relay")


def use_own_connections() -> None:
    """Let the calling thread, which is the relay's, connect by itself where Django has a pool.

    A pool hands one connection to many threads, and lets a relay wait for handlers. Nothing is
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
    """Close the thread's connection, whatever its state; the next statement opens a new one."""
    try:
        connections[using].close()
    except Exception as error:
        # Django has let go of it all the same. What asks for a new one must not end here.
        logger.debug("the connection to %r did not close: %s", using, loggable(error))


def drop_all_connections() -> None:
    """Close the connections of a thread that ends."""
    for alias in [connection.alias for connection in connections.all(initialized_only=True)]:
        drop_connection(alias)
