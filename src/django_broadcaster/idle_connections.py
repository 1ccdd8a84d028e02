"""Database connections of threads in which no request begins or ends.

Django looks at a thread's connections when a request begins and when it ends. A relay, a consumer
and a task worker have no requests. The server may end a connection that is idle for long, and the
next statement on it would fail.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from django.db import connections

LOOK_SECONDS = 1.0
"""Seconds for which a thread trusts its connections after it looked at them."""

_looked = threading.local()


def check_connections() -> None:
    """Let each connection of the calling thread prove that it works before its next statement.

    A connection that is not used costs nothing, a used one costs one round trip a second. One that
    does not work is closed, and Django opens a new one. A connection in a transaction is left
    alone.
    """
    now = time.monotonic()
    if now < getattr(_looked, "at", -LOOK_SECONDS) + LOOK_SECONDS:
        return
    _looked.at = now
    connection: Any  # the names of Django's own flags are in no stub
    for connection in connections.all(initialized_only=True):
        if not is_in_transaction(connection):
            connection.health_check_enabled = True
            connection.health_check_done = False


def is_in_transaction(connection: Any) -> bool:
    """Return True if Django has begun a transaction there, or the caller turned autocommit off."""
    if connection.in_atomic_block:
        return True
    return connection.connection is not None and not connection.autocommit


def return_to_pools() -> None:
    """Give the calling thread's connections back to Django's pools, where there are pools."""
    for connection in connections.all(initialized_only=True):
        if has_pool(connection) and not is_in_transaction(connection):
            connection.close()


def has_pool(connection: Any) -> bool:
    """Return True if the connection comes from a pool of Django's."""
    return bool(connection.settings_dict.get("OPTIONS", {}).get("pool"))
