"""Trouble with the database: what of it is foreseen, how long to wait, and how to begin anew."""

from __future__ import annotations

import logging

from django.db import Error, connections

from django_broadcaster.exceptions import BackendConfigurationError

from .telling import told

logger = logging.getLogger("django_broadcaster.relay")

FIRST_PAUSE = 0.2
MAX_PAUSE = 10.0
"""Seconds between attempts to go on after trouble, at the first and at the most."""


def is_foreseen(error: BaseException) -> bool:
    """Tell whether an error says by itself what is wrong, without a traceback.

    The database is away, or refused a statement; or a setting or a package is to be put right.

    By Django's common base: InterfaceError, which some drivers raise for a connection that has
    gone, is no DatabaseError.
    """
    return isinstance(error, Error | BackendConfigurationError)


class Backoff:
    """Pauses that double from `FIRST_PAUSE` up to `maximum` seconds, until something succeeds."""

    def __init__(self, maximum: float = MAX_PAUSE) -> None:
        self._maximum = maximum
        self._pause = 0.0

    def next(self) -> float:
        """Return the seconds to wait before the next attempt."""
        self._pause = min(self._maximum, self._pause * 2 or FIRST_PAUSE)
        return self._pause

    def reset(self) -> None:
        """Note that an attempt succeeded."""
        self._pause = 0.0


def drop_connection(using: str) -> None:
    """Close the thread's connection, whatever its state; the next statement opens a new one."""
    try:
        connections[using].close()
    except Exception as error:
        # Django has let go of it all the same. What asks for a new one must not end here.
        logger.debug("the connection to %r did not close: %s", using, told(error))


def drop_all_connections() -> None:
    """Close the connections of a thread that ends."""
    for alias in [connection.alias for connection in connections.all(initialized_only=True)]:
        drop_connection(alias)
