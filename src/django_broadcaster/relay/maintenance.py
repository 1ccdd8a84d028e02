"""What a relay does for its partitions besides delivering: promote, release, purge.

Each step is small and bounded, so that it never keeps deliveries waiting for long.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection

from django.db import DatabaseError, connections
from django.utils import timezone

from django_broadcaster.conf import conf, retention
from django_broadcaster.models import Attempt, InboxEvent, OutboxEvent
from django_broadcaster.querysets import RelayRows, purge_entries, purge_published

from .order import BlockedKeys
from .ownership import Lease
from .watermark import Watermark

logger = logging.getLogger("django_broadcaster.relay")

CHUNK = 1000
"""Rows that one step moves or deletes at the most."""

CHUNKS = 10
"""Chunks that one turn of purging deletes at the most."""

IDLE_SECONDS = 60.0
"""How long purging rests when it found nothing to delete."""

REREAD_SECONDS = 3600.0
"""How often purging goes over the whole table again, for rows that it passed by."""


def promote_due(rows: RelayRows, lease: Lease, blocked: BlockedKeys, watermark: Watermark) -> int:
    """Make events pending whose time has come; return how many.

    The first waiting event of a blocked key goes alone: those behind it stay blocked until it is
    out of their way.
    """
    promoted = rows.promote(lease.partitions, CHUNK)
    blocked.refresh(lease.partitions, (key for _, key in promoted))
    watermark.pending_again([row_id for row_id, _ in promoted])
    return len(promoted)


def release_unblocked(
    rows: RelayRows,
    lease: Lease,
    blocked: BlockedKeys,
    watermark: Watermark,
    keys: Collection[str] | None = None,
) -> int:
    """Make events pending whose key, of `keys` or any, waits for nothing any more; return how many.

    Asked for the keys that a delivery finished an event of, it lets those behind go on. Asked for
    all from time to time, it finds the keys whose first event an operator cancelled.
    """
    released = rows.release(lease.partitions, CHUNK, keys)
    blocked.refresh(lease.partitions, keys or (key for _, key in released))
    watermark.pending_again([row_id for row_id, _ in released])
    return len(released)


class Purge:
    """Deletes published events of a backend, inbox entries and failed attempts that are old."""

    def __init__(self, using: str, backend: str) -> None:
        self._using = using
        self._backend = backend
        self._position = 0
        self._began_at = 0.0
        self._next_at = 0.0

    def run(self) -> int:
        """Delete some chunks if it is time to; return how many rows went."""
        now = time.monotonic()
        if now < self._next_at:
            return 0
        self._next_at = now + IDLE_SECONDS
        try:
            deleted = self._outbox(now) + self._inbox() + self._attempts()
        except DatabaseError as error:
            if not connections[self._using].is_usable():
                raise
            # A table of the application's may refer to events. Deliveries must not wait for that.
            logger.warning("backend %r: its old events can't be purged: %s", self._backend, error)
            return 0
        if deleted:
            self._next_at = now
        return deleted

    def _outbox(self, now: float) -> int:
        keep = retention(conf.RETENTION)
        if keep is None:
            return 0
        if now >= self._began_at + REREAD_SECONDS:
            self._position, self._began_at = 0, now
        events = OutboxEvent.objects.using(self._using).filter(publisher_backend=self._backend)
        before, total = timezone.now() - keep, 0
        for _ in range(CHUNKS):
            deleted, end = purge_published(events, before, self._position, CHUNK)
            total += deleted
            if end is None:
                break
            self._position = end
        return total

    def _inbox(self) -> int:
        keep = retention(conf.INBOX_RETENTION)
        if keep is None:
            return 0
        entries = InboxEvent.objects.using(self._using).all()
        return purge_entries(entries, "processed_at", timezone.now() - keep, CHUNK)

    def _attempts(self) -> int:
        keep = retention(conf.HISTORY_RETENTION)
        if keep is None:
            return 0
        attempts = Attempt.objects.using(self._using).all()
        return purge_entries(attempts, "attempted_at", timezone.now() - keep, CHUNK)
