"""Operations in the background: a relay moves events in chunks and delivers in between.

The owner of partition 0 of a backend does this, for operations on any backend. So an operation on a
backend that is not served any more also makes progress, as long as any relay runs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from django.db import Error, connections

from django_broadcaster.archives import Stored, create_archive, store_first, take_out
from django_broadcaster.exceptions import ArchiveError
from django_broadcaster.inbox_replay import prepare_replay
from django_broadcaster.models import OutboxEvent, OutboxOperation
from django_broadcaster.signals import operation_ended
from django_broadcaster.store import Window, move_chunk, record_failure

from .log_safety import loggable
from .separate_thread import CallingThread, Runner

logger = logging.getLogger("django_broadcaster.relay")

POLL_SECONDS = 0.5
"""Seconds between polls for an operation while there is none."""

REST = 4
"""After a chunk the relay delivers for this many times as long as the chunk took."""

IDLE_REST = 1
"""The same if there was nothing to deliver."""


class _WayOut:
    """Purged events leave through the archive, if there is one."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._archive = create_archive()
        self._stored: Stored | None = None

    @property
    def stores_first(self) -> bool:
        return self._archive is not None and not self._archive.in_transaction

    def store(self, using: str, ids: Sequence[int]) -> None:
        self._stored = store_first(using, ids, self._archive, run=self._runner.run)

    def take_out(self, using: str, ids: Sequence[int]) -> int:
        return take_out(using, ids, self._archive, self._stored)


class Operations:
    """One relay's work on the operations of an outbox."""

    def __init__(
        self,
        using: str,
        runner: Runner | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner or CallingThread()
        self.is_moving = False
        """Whether the last poll found something to do."""
        self._using = using  # not its connection: each thread has its own
        self._operations = OutboxOperation.objects.using(using)
        self._events = OutboxEvent.objects.using(using)
        self._window = Window()
        self._way_out = _WayOut(self._runner)
        self._clock = clock
        self._next_at = 0.0

    @property
    def is_due(self) -> bool:
        """Whether a poll for an operation, or its next chunk, is due."""
        return self._clock() >= self._next_at

    def run(self, *, idle: bool = False) -> None:
        """Move a chunk if there is an operation and it is due.

        `idle` is True if there was nothing to deliver. Raises the database's errors if the
        connection is lost.
        """
        if not self.is_due:
            return
        began = self._clock()
        self._next_at = began + POLL_SECONDS
        pk = self._operations.next_due()
        self.is_moving = pk is not None and self._step(pk)
        if self.is_moving:
            now = self._clock()
            self._next_at = now + (IDLE_REST if idle else REST) * (now - began)

    def _step(self, pk: int) -> bool:
        """Move a chunk of the operation; return True if this relay could."""
        try:
            operation = move_chunk(
                self._operations, pk, self._events, self._window, self._way_out, prepare_replay
            )
        except ArchiveError as error:
            operation = self._failed(pk, error, for_good=False)
        except Error as error:
            if not connections[self._using].is_usable():
                raise
            operation = self._failed(pk, error, for_good=False)
        except Exception as error:  # no retry would help, and deliveries must continue
            operation = self._failed(pk, error, for_good=True)
        if operation is None:
            return False
        if not operation.is_active:
            self._log_end(operation)
        return not operation.failures

    def _failed(self, pk: int, error: Exception, *, for_good: bool) -> OutboxOperation | None:
        next_step = "giving up" if for_good else "retrying later"
        logger.warning(
            "Operation %d could not move its next events: %s; %s.", pk, loggable(error), next_step
        )
        return record_failure(self._operations, pk, error, for_good=for_good)

    def _log_end(self, operation: OutboxOperation) -> None:
        logger.info(
            "Operation %d (%s) is %s: %d of %d events.",
            operation.pk,
            operation,
            operation.state,
            operation.done,
            operation.total,
        )
        if operation_ended.has_listeners(OutboxOperation):
            send = operation_ended.send_robust
            self._runner.run(send, sender=OutboxOperation, operation=operation)
