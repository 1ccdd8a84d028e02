"""Wake relays by a NOTIFY once a publisher's transaction has committed (PostgreSQL).

The NOTIFY is not part of that transaction, because at commit it takes a lock for which all
transactions of the server wait. A process sends at most one within `COALESCE_SECONDS`. That is
enough, because a woken relay keeps polling fast for longer than that.
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
"""The last callbacks of a transaction that are searched for an equal one."""

_sent: dict[tuple[str, str], float] = {}


def notify_after_commit(connection: BaseDatabaseWrapper, alias: str) -> None:
    """Wake the relays of a backend once the open transaction has committed."""
    if connection.vendor != "postgresql" or not conf.NOTIFY:
        return
    # If autocommit was turned off, Django does not notice the end of the transaction.
    if not connection.in_atomic_block and not connection.get_autocommit():
        return
    hook = _hook(connection.alias, alias)
    # One callback is enough for many events. Those of rolled back savepoints are not in the list.
    for entry in connection.run_on_commit[-RECENT_HOOKS:]:
        if entry[1] is hook:
            return
    connection.on_commit(hook, robust=True)


@cache
def _hook(using: str, alias: str) -> Callable[[], None]:
    def notify() -> None:  # not a `partial`: Django logs the function's name if it fails
        _notify(using, alias)

    return notify


def _notify(using: str, alias: str) -> None:
    now = time.monotonic()
    if now < _sent.get((using, alias), 0.0) + COALESCE_SECONDS:
        return
    _sent[using, alias] = now
    try:
        send(connections[using], CHANNEL, alias)
    except Error as error:
        # The caller's transaction has committed, and a relay finds the event when it polls.
        reason = " ".join(str(error).split())
        logger.warning(
            "Could not wake the relay of backend %r: %s; the relay finds the event when it polls.",
            alias,
            reason,
            extra={"backend": alias},
        )


def notify_shares(using: str, alias: str) -> None:
    """Wake the relays of a backend to check their shares, now or when the transaction commits."""
    connection = connections[using]
    if conf.NOTIFY and connection.vendor == "postgresql":
        send(connection, SHARES_CHANNEL, alias)


def send(connection: BaseDatabaseWrapper, channel: str, payload: str) -> None:
    # The function can be bound on the server, but takes twice the time of the command.
    binds_on_server = connection.features.uses_server_side_binding  # type: ignore[attr-defined]
    notify = f"SELECT pg_notify('{channel}', %s)" if binds_on_server else f"NOTIFY {channel}, %s"
    with connection.cursor() as cursor:
        # It writes nothing to the disk, so its commit does not wait for it.
        cursor.execute(notify, [payload])
