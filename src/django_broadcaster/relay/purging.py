"""Purging: old events of a backend, old entries of other tables, and time partitions.

Each step is small and bounded, so that deliveries never wait for long.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
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
    OutboxMove,
    OutboxOperation,
    OutboxSample,
    OutboxTaskRun,
)
from django_broadcaster.retention import span
from django_broadcaster.states import OutboxEventStatus
from django_broadcaster.store import (
    DatabaseClock,
    drop_oldest,
    find_dead_letters,
    find_delivered,
    is_partitioned,
    keep_ahead,
    minute_of,
    purge_entries,
    slots,
)

from .log_safety import loggable
from .separate_thread import CallingThread, Runner

logger = logging.getLogger("django_broadcaster.relay")

CHUNK = 1000
"""The most rows that one step deletes."""

TURN_SECONDS = 0.2
"""How long one turn of purging takes; the chunk in progress is finished."""

IDLE_SECONDS = 60.0
"""Seconds until the next turn if there was nothing to delete."""

REREAD_SECONDS = 3600.0
"""How often purging starts at the beginning of the table again, for rows that it skipped."""

Find = Callable[[int, int], tuple[list[int], int | None]]
"""Finds old events after an id among a number of rows; returns their ids and the next id."""


class Purge:
    """Deletes old events of a backend from the outbox, and old entries of other tables.

    Events are deleted in chunks, each in a short transaction of its own, for a fraction of a second
    a turn, so that deliveries never wait for long.
    """

    def __init__(
        self,
        using: str,
        alias: str,
        runner: Runner | None = None,
        clock: DatabaseClock | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._using = using
        self._clock = clock or DatabaseClock(using)
        self._alias = alias
        self._runner = runner or CallingThread()
        self._archive = create_archive()
        self._width = span(conf.TIME_PARTITIONS)
        self._delivered = _Walk()
        self._dead_letters = _Walk()
        self._monotonic = monotonic
        self._next_at = 0.0

    @property
    def is_behind(self) -> bool:
        """Whether one turn did not have enough time for all old events."""
        return self._next_at <= self._monotonic()

    def run(self) -> int:
        """Delete some chunks if it is due; return how many rows were deleted."""
        now = self._monotonic()
        if not self.is_behind:
            return 0
        self._next_at = now + IDLE_SECONDS
        try:
            entries = self._inbox() + self._history()  # first: they need no archive
            gone, more = self._outbox(now)
        except ArchiveError as error:
            self._log("archive", error, "keeping them")
            return 0
        except DatabaseError as error:
            if not connections[self._using].is_usable():
                raise
            # A table of the application may refer to events. Deliveries must not stop for that.
            self._log("purge", error, "retrying later")
            return 0
        if more or entries:
            self._next_at = now
        return gone + entries

    def _log(self, action: str, error: Exception, next_step: str) -> None:
        logger.warning(
            "Backend %r: Could not %s old events: %s; %s.",
            self._alias,
            action,
            loggable(error),
            next_step,
            extra={"backend": self._alias},
        )

    def _outbox(self, now: float) -> tuple[int, bool]:
        """Return how many events were deleted, and whether there may be more."""
        moment = self._clock.now()
        policy = backends.retention(self._alias)
        limits = backends.slots()
        lost = {each for each, slot in slots(self._using, limits).items() if not slot.keeps_events}
        if self._width and is_partitioned(self._using):
            self._rotate_partitions(self._width, moment, may_drop=not lost)
            # Events that are not dropped with their partition long after their time are deleted.
            policy = policy.extended(2 * self._width)
        expiries = policy.expiries(moment)
        if self._alias in lost:
            # The rows are all that is left of events that Kafka Connect has not taken.
            expiries.pop(OutboxEventStatus.PUBLISHED, None)
        failed, events = (
            expiries.pop(OutboxEventStatus.FAILED, None),
            OutboxEvent.objects.using(self._using),
        )
        deadline, gone = now + TURN_SECONDS, 0
        steps: list[tuple[_Walk, Find]] = []
        if expiries:
            delivered = partial(find_delivered, events.all(), self._alias, expiries, moment)
            steps.append((self._delivered, delivered))
        if failed:
            dead = partial(find_dead_letters, events.all(), self._alias, failed)
            steps.append((self._dead_letters, dead))
        for walk, find in steps:
            for old in walk.chunks(find, now):
                gone += remove(self._using, old, self._archive, run=self._runner.run)
                walk.move_on()
                if self._monotonic() >= deadline:
                    return gone, True
        return gone, False

    def _rotate_partitions(self, width: timedelta, now: datetime, *, may_drop: bool) -> None:
        """Create the next time partition, and drop the oldest; retry later if that fails."""
        policies = [backends.retention(alias) for alias in backends.aliases()]
        kept = [span for policy in policies for span in (policy.published, policy.cancelled)]
        longest = None if None in kept else max(span for span in kept if span is not None)
        try:
            keep_ahead(self._using, width, now)
            if (
                may_drop
                and longest is not None
                and (name := drop_oldest(self._using, now - longest))
            ):
                logger.info("Dropped the time partition %s of the outbox.", name)
        except DatabaseError as error:
            if not connections[self._using].is_usable():
                raise
            logger.warning(
                "Could not change the time partitions of the outbox: %s; retrying later.",
                loggable(error),
            )

    def _inbox(self) -> int:
        keep = span(conf.INBOX_RETENTION)
        if keep is None:
            return 0
        before = self._clock.now() - keep
        # Handlers record events where the router writes them, which may be another database.
        return sum(
            purge_entries(model._base_manager.using(alias).all(), column, before, CHUNK)
            for model, column in ((InboxEvent, "processed_at"), (OutboxTaskRun, "started_at"))
            for alias in sorted({self._using, router.db_for_write(model)})
            if router.allow_migrate_model(alias, model)
        )

    def _history(self) -> int:
        keep = span(conf.HISTORY_RETENTION)
        if keep is None:
            return 0
        before = self._clock.now() - keep
        attempts = OutboxAttempt.objects.using(self._using).all()
        moves = OutboxMove.objects.using(self._using).all()
        ended = OutboxOperation.objects.using(self._using).filter(finished_at__isnull=False)
        samples = OutboxSample.objects.using(self._using).all()
        return (
            purge_entries(attempts, "attempted_at", before, CHUNK)
            + purge_entries(moves, "moved_at", before, CHUNK)
            + purge_entries(ended, "finished_at", before, CHUNK)
            + purge_entries(samples, "minute", minute_of(before), CHUNK)
        )


class _Walk:
    """The position of a purge in the order of ids; from time to time it starts again."""

    def __init__(self) -> None:
        self._position = 0
        self._next: int | None = None
        self._began_at = -REREAD_SECONDS

    def chunks(self, find: Find, now: float) -> Iterator[list[int]]:
        """Yield the old ids of each chunk, from the position up to events that are too young."""
        if now >= self._began_at + REREAD_SECONDS:
            self._position, self._began_at = 0, now
        while True:
            old, self._next = find(self._position, CHUNK)
            if old or self._next is not None:
                yield old
            if self._next is None:
                return

    def move_on(self) -> None:
        """Note that the chunk is done; a purge that fails stays before it."""
        if self._next is not None:
            self._position = self._next
