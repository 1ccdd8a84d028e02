"""Operations: moves of many events that relays make in the background, a chunk at a time.

A chunk is one transaction that locks the operation, moves the events, and saves its position. If a
relay crashes, another one continues without repeating or omitting an event. Operations run one at
a time, in the order of their requests: a cancel before a replay stays before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Protocol

from django.db import DatabaseError, connections, models, transaction
from django.db.models import DurationField, ExpressionWrapper, F
from django.utils import timezone

from django_broadcaster.conf import conf
from django_broadcaster.models import OutboxOperation, OutboxRelay
from django_broadcaster.models.managers import DatabaseNow, OutboxEventQuerySet
from django_broadcaster.models.operation_managers import OperationQuerySet
from django_broadcaster.models.selection import EventSelection
from django_broadcaster.redaction import error_text
from django_broadcaster.states import OperationKind, OperationState

from .charsets import storable
from .chunks import Chunk, Window, next_chunk
from .moves import MOVES
from .previews import estimate_of, span_of

ATTEMPTS = 5
"""Consecutive failures of a chunk after which an operation has failed."""


def request_operation(
    events: OutboxEventQuerySet,
    kind: str,
    selection: EventSelection,
    *,
    by: str,
    user_pk: str = "",
    forget_inbox: Sequence[str] = (),
) -> OutboxOperation:
    """Request that the relays move the selected events that are in the outbox now.

    Events that are published later are not moved, so that every operation ends.
    """
    span = span_of(events, selection)
    estimate = estimate_of(events, kind, selection, span)
    return OutboxOperation.objects.using(events.db).create(
        kind=kind,
        selection=selection.as_json(),
        requested_by=by[:255],
        user_pk=user_pk,
        forget_inbox=list(forget_inbox),
        start=span.start,
        position=span.start,
        last=span.last,
        total=estimate.events,
        total_is_exact=estimate.is_exact,
    )


def is_served(relays: models.QuerySet[OutboxRelay]) -> bool:
    """Return True if a relay is running that works on operations."""
    age = ExpressionWrapper(DatabaseNow() - F("heartbeat_at"), output_field=DurationField())
    lease = timedelta(seconds=conf.LEASE_SECONDS)
    return relays.annotate(age=age).filter(takes_share=True, age__lte=lease).exists()


PrepareReplay = Callable[[OutboxEventQuerySet, Sequence[str]], int]
"""Prepares the inbox for a replay, in its transaction; returns how many events run no handler.

It is given the events, and the names of the handlers whose notes it deletes.
"""


class WayOut(Protocol):
    """How purged events leave the outbox."""

    @property
    def stores_first(self) -> bool:
        """Whether an archive outside of the database must store events first."""

    def store(self, using: str, ids: Sequence[int]) -> None:
        """Store events in that archive, while no row is locked."""

    def take_out(self, using: str, ids: Sequence[int]) -> int:
        """Delete events in the open transaction; return how many."""


def move_chunk(
    operations: OperationQuerySet,
    pk: int,
    events: OutboxEventQuerySet,
    window: Window,
    way_out: WayOut,
    prepare_replay: PrepareReplay,
) -> OutboxOperation | None:
    """Move the next events of an operation, and return it; None as `locked` does.

    If an error is raised, the operation is unchanged.

    Raises:
        ValueError: A newer version of this package requested the operation.
        Error: The database refused a statement. The archive may raise other errors.
    """
    stored = _stored_first(operations, pk, events, window, way_out)
    with transaction.atomic(using=operations.db):
        operation = operations.locked(pk)
        if operation is None:
            return None
        if stored is not None and stored.position != operation.position:
            return None  # another relay was faster
        began = time.monotonic()
        chunk = _before_locked(events, stored or next_chunk(operation, events, window))
        if operation.kind == OperationKind.REPLAY and chunk.ids:
            replayed = events.filter(id__in=chunk.ids)
            operation.skipped += prepare_replay(replayed, operation.forget_inbox)
        _move(operation, events, chunk, way_out)
        operation.save(using=operations.db)
    if not chunk.is_full:
        window.took(time.monotonic() - began + chunk.seconds)
    return operation


def _stored_first(
    operations: OperationQuerySet,
    pk: int,
    events: OutboxEventQuerySet,
    window: Window,
    way_out: WayOut,
) -> Chunk | None:
    """Store the next events of a purge in an archive outside of the database, if there is one."""
    operation = operations.active().filter(pk=pk).first() if way_out.stores_first else None
    if operation is None or operation.kind != OperationKind.PURGE:
        return None
    began = time.monotonic()
    chunk = next_chunk(operation, events, window)
    seconds = time.monotonic() - began
    way_out.store(events.db, chunk.ids)
    return chunk._replace(seconds=seconds)


def _before_locked(events: OutboxEventQuerySet, chunk: Chunk) -> Chunk:
    """Return the chunk up to the first event that another transaction has locked.

    While a relay waited for the lock, it would deliver nothing.

    Raises:
        DatabaseError: The first event is locked; the operation is retried after a pause.
    """
    if not (chunk.ids and connections[events.db].features.has_select_for_update_skip_locked):
        return chunk
    rows = events.filter(id__in=chunk.ids).order_by("id").values_list("id", flat=True)
    free = set(rows.select_for_update(skip_locked=True))
    if len(free) == len(chunk.ids):
        return chunk
    locked = set(rows) - free  # other missing rows have been deleted
    first = next((row_id for row_id in chunk.ids if row_id in locked), None)
    if first is None:
        return chunk
    if first == chunk.ids[0]:
        raise DatabaseError(f"another transaction has locked event {first}")
    return chunk._replace(ids=[row_id for row_id in chunk.ids if row_id < first], end=first - 1)


def _move(
    operation: OutboxOperation, events: OutboxEventQuerySet, chunk: Chunk, way_out: WayOut
) -> None:
    now = timezone.now()
    # Not earlier than the previous chunk, which a relay with another clock may have moved: events
    # of a key are due in the order of their ids.
    operation.moved_at = max(now, operation.moved_at or now)
    run, moved = MOVES[operation.kind].run, 0
    if chunk.ids and run is None:
        moved = way_out.take_out(events.db, chunk.ids)
    elif chunk.ids and run is not None:
        rows = events.filter(id__in=chunk.ids)
        by = operation.requested_by
        moved = run(rows, at=operation.moved_at, operation=operation.pk, by=by)
    operation.done += moved
    operation.left_alone += len(chunk.ids) - moved
    operation.position = chunk.end
    operation.started_at = operation.started_at or now
    operation.failures, operation.not_before = 0, None
    operation.state = OperationState.RUNNING
    if operation.position >= operation.last:
        operation.state, operation.finished_at = OperationState.DONE, now


def record_failure(
    operations: OperationQuerySet, pk: int, error: BaseException, *, for_good: bool
) -> OutboxOperation | None:
    """Record that a chunk of an operation failed, and return the operation.

    It is retried after an increasing pause. With `for_good`, or after `ATTEMPTS` consecutive
    failures, the operation has failed.
    """
    with transaction.atomic(using=operations.db):
        operation = operations.locked(pk)
        if operation is None:
            return None
        now = timezone.now()
        operation.failures += 1
        operation.error = storable(error_text(error), connections[operations.db])
        operation.not_before = now + timedelta(seconds=2**operation.failures)
        if for_good or operation.failures >= ATTEMPTS:
            operation.state, operation.finished_at = OperationState.FAILED, now
        operation.save(using=operations.db)
    return operation
