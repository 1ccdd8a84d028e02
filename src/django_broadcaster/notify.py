"""Wake relays once a publisher's transaction has committed.

A relay in the same process is woken directly, on every database: it delivers what a receiver
writes, or what a handler publishes. Relays of other processes are woken by a NOTIFY on PostgreSQL.
The NOTIFY is not part of that transaction, because at commit it takes a lock for which all
transactions of the server wait. A process wakes at most once within `COALESCE_SECONDS`. That is
enough, because a woken relay keeps polling fast for longer than that.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

_here: dict[tuple[str, str], Callable[[], bool]] = {}
"""By database and backend, what wakes the relay of this process."""

if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_here.clear)  # the threads are the parent's


@contextmanager
def waking(using: str, alias: str, wake: Callable[[], bool]) -> Iterator[None]:
    """Let publishers of this process wake a relay of this process directly, within the block.

    Args:
        using: The alias of the outbox's database.
        alias: The alias of the backend.
        wake: Wakes the relay. It returns True if that one delivers every partition, so that no
            other relay has to be woken.
    """
    _here[using, alias] = wake
    try:
        yield
    finally:
        if _here.get((using, alias)) is wake:
            del _here[using, alias]


def notify_after_commit(connection: BaseDatabaseWrapper, alias: str) -> None:
    """Wake the relays of a backend once the open transaction has committed."""
    if not _may_notify(connection) and (connection.alias, alias) not in _here:
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
    wake = _here.get((using, alias))
    if (wake is not None and wake()) or not _may_notify(connections[using]):
        return
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


def _may_notify(connection: BaseDatabaseWrapper) -> bool:
    return connection.vendor == "postgresql" and conf.NOTIFY


def notify_shares(using: str, alias: str) -> None:
    """Wake the relays of a backend to check their shares, now or when the transaction commits."""
    connection = connections[using]
    if _may_notify(connection):
        send(connection, SHARES_CHANNEL, alias)


def send(connection: BaseDatabaseWrapper, channel: str, payload: str) -> None:
    # The function can be bound on the server, but takes twice the time of the command.
    binds_on_server = connection.features.uses_server_side_binding  # type: ignore[attr-defined]
    notify = f"SELECT pg_notify('{channel}', %s)" if binds_on_server else f"NOTIFY {channel}, %s"
    with connection.cursor() as cursor:
        # It writes nothing to the disk, so its commit does not wait for it.
        cursor.execute(notify, [payload])
