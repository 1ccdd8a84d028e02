"""Database connections of threads without requests.

Django checks a thread's connections when a request begins and when it ends. A relay, a consumer
and a task worker have no requests. If the server ends a connection that is idle for long, the next
statement on it fails.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from django.db import connections

LOOK_SECONDS = 1.0
"""Seconds between two checks of a thread's connections."""

_looked = threading.local()


def check_connections() -> None:
    """Let Django check each connection of the calling thread before its next statement.

    An unused connection costs nothing, and a used one costs one round trip a second. Django
    replaces a broken connection. A connection in a transaction is not checked.
    """
    now = time.monotonic()
    if now < getattr(_looked, "at", -LOOK_SECONDS) + LOOK_SECONDS:
        return
    _looked.at = now
    connection: Any  # the type stubs lack Django's flags
    for connection in connections.all(initialized_only=True):
        if not is_in_transaction(connection):
            connection.health_check_enabled = True
            connection.health_check_done = False


def is_in_transaction(connection: Any) -> bool:
    """Return True if Django has begun a transaction, or the caller turned autocommit off."""
    if connection.in_atomic_block:
        return True
    return connection.connection is not None and not connection.autocommit


def return_to_pools() -> None:
    """Return the calling thread's pooled connections to Django's pools."""
    for connection in connections.all(initialized_only=True):
        if has_pool(connection) and not is_in_transaction(connection):
            connection.close()


def has_pool(connection: Any) -> bool:
    """Return True if the connection is from one of Django's pools."""
    return bool(connection.settings_dict.get("OPTIONS", {}).get("pool"))
