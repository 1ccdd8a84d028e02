"""The publisher's side of a wake-up: a NOTIFY once the transaction has committed (PostgreSQL).

It is never sent inside of the transaction: NOTIFY takes a lock at commit that all transactions of
the server queue for. One is enough for many events: a process sends none within `COALESCE_SECONDS`
of its last, and a relay that was woken keeps polling fast for longer than that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import cache

from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from .conf import conf

logger = logging.getLogger("django_broadcaster.relay")

CHANNEL = "django_broadcaster"
SHARES_CHANNEL = "django_broadcaster_shares"
COALESCE_SECONDS = 0.005
RECENT_HOOKS = 8
"""Callbacks of a transaction among which a publisher looks for its own: backends of a fan-out."""

_sent: dict[tuple[str, str], float] = {}


def notify_after_commit(connection: BaseDatabaseWrapper, backend: str) -> None:
    """Wake the relays of a backend once the open transaction has committed."""
    if connection.vendor != "postgresql" or not conf.NOTIFY:
        return
    # Django can't tell when a transaction ends that was begun by switching autocommit off.
    if not connection.in_atomic_block and not connection.get_autocommit():
        return
    hook = _hook(connection.alias, backend)
    # One is enough for many events. One of a savepoint that has ended is not here any more.
    for entry in connection.run_on_commit[-RECENT_HOOKS:]:
        if entry[1] is hook:
            return
    connection.on_commit(hook, robust=True)


@cache
def _hook(using: str, backend: str) -> Callable[[], None]:
    def notify() -> None:  # no `partial`: Django reads its name when it fails
        _notify(using, backend)

    return notify


def _notify(using: str, backend: str) -> None:
    now = time.monotonic()
    if now < _sent.get((using, backend), 0.0) + COALESCE_SECONDS:
        return
    _sent[using, backend] = now
    try:
        send(connections[using], CHANNEL, backend)
    except Error as error:
        # What the caller wanted has been committed, and a relay finds it when it polls.
        problem = " ".join(str(error).split())
        logger.warning(
            "Could not wake the relay of backend %r: %s; it finds the event when it polls.",
            backend,
            problem,
            extra={"backend": backend},
        )


def notify_shares(using: str, backend: str) -> None:
    """Let the relays of a backend look at their shares, now or when the transaction commits."""
    connection = connections[using]
    if conf.NOTIFY and connection.vendor == "postgresql":
        send(connection, SHARES_CHANNEL, backend)


def send(connection: BaseDatabaseWrapper, channel: str, payload: str) -> None:
    with connection.cursor() as cursor:
        # The caller need not wait for the disk: a NOTIFY leaves nothing behind.
        cursor.execute(
            "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)",
            [channel, payload],
        )
