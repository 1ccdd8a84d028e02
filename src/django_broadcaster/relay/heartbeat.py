"""The heartbeat of `process_pending_events`, whose batch may take longer than its lease."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import Error, connections

from django_broadcaster.exceptions import LeaseLost

from .db_connections import drop_all_connections, drop_connection
from .lease import HEARTBEATS_PER_LEASE, Lease
from .log_safety import loggable

logger = logging.getLogger("django_broadcaster.relay")


@contextmanager
def beating(lease: Lease) -> Iterator[None]:
    """Renew a lease from a thread with a connection of its own, for the time of the block.

    If the block ends before the first heartbeat, no connection is opened. In the transaction of a
    TestCase no other connection sees the lease, so no heartbeat is sent.
    """
    if connections[lease.using].in_atomic_block:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(
        target=_beat, args=[lease, ended], name="outbox-heartbeat", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(lease.seconds)


def _beat(lease: Lease, ended: threading.Event) -> None:
    try:
        while not ended.wait(lease.seconds / HEARTBEATS_PER_LEASE):
            try:
                lease.renew()
            except LeaseLost:
                return  # the caller finds out before it settles
            except Error as error:
                logger.warning(
                    "Heartbeat of backend %r failed: %s; retrying in %.1f s.",
                    lease.alias,
                    loggable(error),
                    lease.seconds / HEARTBEATS_PER_LEASE,
                    extra=lease.log_extra,
                )
                drop_connection(lease.using)
    finally:
        drop_all_connections()
