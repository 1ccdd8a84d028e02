"""What a relay does for its partitions besides delivering: promote, release, purge.

Each step is small and bounded, so that it never keeps deliveries waiting for long.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator
from datetime import datetime, timedelta
from functools import partial

from django.db import DatabaseError, connections, router

from django_broadcaster.archives import create_archive, remove
from django_broadcaster.backends.handler import backends
from django_broadcaster.conf import conf
from django_broadcaster.exceptions import ArchiveError
from django_broadcaster.models import (
    InboxEvent,
    OutboxAttempt,
    OutboxEvent,
    OutboxOperation,
    OutboxSample,
)
from django_broadcaster.retention import span
from django_broadcaster.states import OutboxEventStatus
from django_broadcaster.store import (
    DatabaseClock,
    RelayRows,
    drop_oldest,
    find_dead_letters,
    find_delivered,
    is_partitioned,
    keep_ahead,
    minute_of,
    purge_entries,
)

from .blocked_keys import BlockedKeys
from .lease import Lease
from .log_safety import loggable
from .separate_thread import CallingThread, Runner
from .watermark import Watermark

logger = logging.getLogger("django_broadcaster.relay")

CHUNK = 1000
"""Rows that one step moves or deletes at the most."""

TURN_SECONDS = 0.2
"""How long one turn of purging goes on; the chunk that it is at is finished."""

IDLE_SECONDS = 60.0
"""How long purging rests when it found nothing to delete."""

REREAD_SECONDS = 3600.0
"""How often purging goes over the whole table again, for rows that it passed by."""

Find = Callable[[int, int], tuple[list[int], int | None]]
"""Finds old events behind an id among so many rows; returns theirs, and the id to go on from."""


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
    """Takes old events of a backend out of the outbox, and deletes old entries of other tables.

    Events go a chunk at a time, each in a short transaction of its own, for a fraction of a second
    a turn, so that deliveries never wait for long.
    """

    def __init__(
        self,
        using: str,
        backend: str,
        runner: Runner | None = None,
        clock: DatabaseClock | None = None,
    ) -> None:
        self._using = using
        self._clock = clock or DatabaseClock(using)
        self._backend = backend
        self._runner = runner or CallingThread()
        self._archive = create_archive()
        self._width = span(conf.TIME_PARTITIONS)
        self._delivered = _Walk()
        self._dead_letters = _Walk()
        self._next_at = 0.0

    @property
    def is_behind(self) -> bool:
        """Whether there may be more to purge than one turn had time for."""
        return self._next_at <= time.monotonic()

    def run(self) -> int:
        """Take some chunks out if it is time to; return how many rows went."""
        now = time.monotonic()
        if not self.is_behind:
            return 0
        self._next_at = now + IDLE_SECONDS
        try:
            entries = self._inbox() + self._history()  # first: they need no archive
            gone, more = self._outbox(now)
        except ArchiveError as error:
            self._complain("stay, unarchived", error)
            return 0
        except DatabaseError as error:
            if not connections[self._using].is_usable():
                raise
            # A table of the application's may refer to events. Deliveries must not wait for that.
            self._complain("can't be purged", error)
            return 0
        if more or entries:
            self._next_at = now
        return gone + entries

    def _complain(self, problem: str, error: Exception) -> None:
        extra = {"backend": self._backend}
        text = "backend %r: its old events %s: %s"
        logger.warning(text, self._backend, problem, loggable(error), extra=extra)

    def _outbox(self, now: float) -> tuple[int, bool]:
        """Return how many events went, and whether there may be more."""
        moment = self._clock.now()
        policy = backends.retention(self._backend)
        if self._width and is_partitioned(self._using):
            self._see_to_segments(self._width, moment)
            # What is not gone with its segment long after its time is deleted all the same.
            policy = policy.extended(2 * self._width)
        expiries = policy.expiries(moment)
        failed, events = (
            expiries.pop(OutboxEventStatus.FAILED, None),
            OutboxEvent.objects.using(self._using),
        )
        deadline, gone = now + TURN_SECONDS, 0
        steps: list[tuple[_Walk, Find]] = []
        if expiries:
            delivered = partial(find_delivered, events.all(), self._backend, expiries, moment)
            steps.append((self._delivered, delivered))
        if failed:
            dead = partial(find_dead_letters, events.all(), self._backend, failed)
            steps.append((self._dead_letters, dead))
        for walk, find in steps:
            for old in walk.chunks(find, now):
                gone += remove(self._using, old, self._archive, run=self._runner.run)
                walk.move_on()
                if time.monotonic() >= deadline:
                    return gone, True
        return gone, False

    def _see_to_segments(self, width: timedelta, now: datetime) -> None:
        """Make the next time partition, and drop the oldest; what fails is tried again later."""
        policies = [backends.retention(alias) for alias in backends.aliases()]
        kept = [span for policy in policies for span in (policy.published, policy.cancelled)]
        longest = None if None in kept else max(span for span in kept if span is not None)
        try:
            keep_ahead(self._using, width, now)
            if longest is not None and (name := drop_oldest(self._using, now - longest)):
                logger.info("backend %r: dropped the partition %s", self._backend, name)
        except DatabaseError as error:
            if not connections[self._using].is_usable():
                raise
            logger.warning("the outbox's partitions stay as they are for now: %s", loggable(error))

    def _inbox(self) -> int:
        keep = span(conf.INBOX_RETENTION)
        if keep is None:
            return 0
        before = self._clock.now() - keep
        # Handlers note what they had where the router writes it, which may be another database.
        places = {self._using, router.db_for_write(InboxEvent)}
        return sum(
            purge_entries(InboxEvent.objects.using(alias).all(), "processed_at", before, CHUNK)
            for alias in sorted(places)
            if router.allow_migrate_model(alias, InboxEvent)
        )

    def _history(self) -> int:
        keep = span(conf.HISTORY_RETENTION)
        if keep is None:
            return 0
        before = self._clock.now() - keep
        attempts = OutboxAttempt.objects.using(self._using).all()
        ended = OutboxOperation.objects.using(self._using).filter(finished_at__isnull=False)
        samples = OutboxSample.objects.using(self._using).all()
        return (
            purge_entries(attempts, "attempted_at", before, CHUNK)
            + purge_entries(ended, "finished_at", before, CHUNK)
            + purge_entries(samples, "minute", minute_of(before), CHUNK)
        )


class _Walk:
    """How far a purge has come in the order of ids; from time to time it begins anew."""

    def __init__(self) -> None:
        self._position = 0
        self._next: int | None = None
        self._began_at = -REREAD_SECONDS

    def chunks(self, find: Find, now: float) -> Iterator[list[int]]:
        """Yield the old ids of each chunk from where it stands, up to where they are young."""
        if now >= self._began_at + REREAD_SECONDS:
            self._position, self._began_at = 0, now
        while True:
            old, self._next = find(self._position, CHUNK)
            if old or self._next is not None:
                yield old
            if self._next is None:
                return

    def move_on(self) -> None:
        """Note that the chunk is done: a purge that fails stays before it."""
        if self._next is not None:
            self._position = self._next
