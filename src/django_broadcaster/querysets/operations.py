"""Operations: moves of many events that relays make in the background, a chunk at a time.

A chunk is one transaction that locks the operation, moves the events, and notes how far it is. So
a relay that dies repeats nothing and leaves nothing out, whichever relay goes on. Operations are
worked on one at a time, in the order in which they were requested: who cancels and then replays
means it in that order.

Events are looked for in ranges of ids. A look at a range that has hardly anything to move may
have to read it all, so it is kept as short as `Window` says. Where ids are missing, it is jumped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, Protocol

from django.db import connections, models, transaction
from django.db.models import DurationField, ExpressionWrapper, F, Max, Min
from django.utils import timezone

from django_broadcaster.conf import conf
from django_broadcaster.redaction import masked
from django_broadcaster.states import (
    ACTIVE,
    OperationKind,
    OperationState,
    OutboxEventStatus,
)

from .events import DatabaseNow, OutboxEventQuerySet
from .moves import MOVES
from .selection import EventSelection

if TYPE_CHECKING:
    from django_broadcaster.models import Operation, Relay

CHUNK = 1000
"""Events that one transaction moves at the most."""

FEW = 10_000
"""Events in statuses with an index, up to which those of a selection are simply looked up."""

_BY_ID = ("publisher_backend", "id")
_BY_KEY = ("publisher_backend", "partition_key", "id")
INDEXED = {
    OutboxEventStatus.PENDING: _BY_ID,
    OutboxEventStatus.SCHEDULED: ("publisher_backend", "scheduled_at", "id"),
    OutboxEventStatus.RETRY: _BY_KEY,
    OutboxEventStatus.BLOCKED: _BY_KEY,
    OutboxEventStatus.FAILED: _BY_ID,
}
"""The statuses that have indexes, and the order of those: rows read in it are read by them."""

ATTEMPTS = 5
"""How often in a row the database may refuse a chunk before the operation has failed."""

LONGEST_TEXT = 4000
"""Characters of an error that are kept."""


class Window:
    """How many ids one look covers: twice as many while looks are quick, half when they are slow.

    So a look takes about as long whatever the table's size, and whatever plan the database makes.
    """

    FIRST = 10_000
    MOST = 1_000_000
    QUICK_SECONDS = 0.05
    SLOW_SECONDS = 0.15

    def __init__(self) -> None:
        self.ids = self.FIRST

    def took(self, seconds: float) -> None:
        """Note how long a look took."""
        if seconds < self.QUICK_SECONDS:
            self.ids = min(self.MOST, self.ids * 2)
        elif seconds > self.SLOW_SECONDS:
            self.ids = max(1, self.ids // 2)


class Estimate(NamedTuple):
    """How many events there are to move, exactly or about."""

    events: int
    is_exact: bool


class Span(NamedTuple):
    """The ids that an operation looks at: behind `start`, up to `last`."""

    start: int
    last: int


class OperationQuerySet(models.QuerySet["Operation"]):
    """Operations, and what can be done to them."""

    def active(self) -> OperationQuerySet:
        """Return those that the relays have still to work on, in the order of their turn."""
        return self.filter(state__in=ACTIVE).order_by("id")

    def request(
        self,
        events: OutboxEventQuerySet,
        kind: str,
        selection: EventSelection,
        *,
        by: str,
        user_pk: str = "",
    ) -> Operation:
        """Have the relays move the events of a selection that stand in the outbox now.

        Events that are published from now on are not touched: an operation has an end.
        """
        span = span_of(events, selection)
        estimate = estimate_of(events, kind, selection, span)
        return self.create(
            kind=kind,
            selection=selection.as_json(),
            requested_by=by[:255],
            user_pk=user_pk,
            start=span.start,
            position=span.start,
            last=span.last,
            total=estimate.events,
            total_is_exact=estimate.is_exact,
        )

    def stop(self, pk: int, *, by: str) -> bool:
        """End an operation where it is; return False if it has ended already.

        It waits for the chunk that is being moved. What was moved stays moved.
        """
        stopped = self.active().filter(pk=pk)
        return bool(
            stopped.update(
                state=OperationState.STOPPED, stopped_by=by[:255], finished_at=timezone.now()
            )
        )

    def next_due(self) -> int | None:
        """Return the id of the operation whose turn it is; None if it is not to be tried yet."""
        first = self.active().only("id", "not_before").first()
        return first.pk if first is not None and first.is_due else None

    def locked(self, pk: int) -> Operation | None:
        """Lock an operation in a transaction; None if it has ended, or another relay is at it."""
        mine = self.active().filter(pk=pk)
        features = connections[self.db].features
        if features.has_select_for_update:
            skips = features.has_select_for_update_skip_locked
            return mine.select_for_update(skip_locked=skips).first()
        mine.update(position=F("position"))  # SQLite locks everything at the first write
        return mine.first()


def is_served(relays: models.QuerySet[Relay]) -> bool:
    """Tell whether a relay runs that works on operations."""
    age = ExpressionWrapper(DatabaseNow() - F("heartbeat_at"), output_field=DurationField())
    lease = timedelta(seconds=conf.LEASE_SECONDS)
    return relays.annotate(age=age).filter(takes_share=True, age__lte=lease).exists()


def span_of(events: OutboxEventQuerySet, selection: EventSelection) -> Span:
    """Return the ids that there are to look at for a selection; cheap, whatever it is."""
    if selection.ids:
        return Span(min(selection.ids) - 1, max(selection.ids))
    ends = events.aggregate(first=Min("id"), last=Max("id"))
    return Span((ends["first"] or 1) - 1, ends["last"] or 0)


def estimate_of(
    events: OutboxEventQuerySet,
    kind: str,
    selection: EventSelection,
    span: Span,
    *,
    seconds: float = 0.3,
) -> Estimate:
    """Count what there is to move, for about so long; from then on go by the share that was seen.

    It begins with the newest events, which are more often meant than the oldest. Where few events
    stand in the statuses that are meant, as dead letters do, the count is exact.
    """
    few = _few(events, kind, selection, span)
    if few is not None:
        return Estimate(len(few), is_exact=True)
    wanted = events.matching(selection).filter(status__in=MOVES[kind].sources)
    window, count, end = Window(), 0, span.last
    deadline = time.monotonic() + seconds
    while end > span.start:
        if time.monotonic() > deadline:
            seen = span.last - end
            return Estimate(count * (span.last - span.start) // seen, is_exact=False)
        began = time.monotonic()
        start = max(span.start, end - window.ids)
        found = wanted.filter(id__gt=start, id__lte=end).count()
        window.took(time.monotonic() - began)
        count += found
        end = start if found else _newest(events, start)
    return Estimate(count, is_exact=True)


def _few(
    events: OutboxEventQuerySet, kind: str, selection: EventSelection, span: Span
) -> list[int] | None:
    """Return the ids of all events to move, if their statuses have indexes, and few rows."""
    statuses = [each for each in MOVES[kind].sources if selection.status in ("", each)]
    if not set(statuses) <= set(INDEXED):
        return None
    ids: list[int] = []
    for status in statuses:  # one by one: an index is of one or two of them
        rows = events.filter(status=status, id__gt=span.start, id__lte=span.last)
        if selection.backend:
            rows = rows.filter(publisher_backend=selection.backend)
        ids += rows.order_by(*INDEXED[status]).values_list("id", flat=True)[: FEW + 1]
        if len(ids) > FEW:
            return None
    wanted = events.matching(selection).filter(id__in=ids, status__in=statuses)
    return list(wanted.order_by("id").values_list("id", flat=True)) if ids else []


def first_of(
    events: OutboxEventQuerySet,
    kind: str,
    selection: EventSelection,
    span: Span,
    limit: int,
    *,
    seconds: float = 0.3,
) -> list[int]:
    """Return the ids of the first events that there are to move, as far as they are soon found."""
    few = _few(events, kind, selection, span)
    if few is not None:
        return few[:limit]
    look = events.model._meta.apps.get_model("django_broadcaster", "Operation")(
        kind=kind, selection=selection.as_json(), position=span.start, last=span.last
    )
    window, found = Window(), list[int]()
    deadline = time.monotonic() + seconds
    while look.position < look.last and len(found) < limit and time.monotonic() < deadline:
        began = time.monotonic()
        chunk = _next_chunk(look, events, window)
        window.took(time.monotonic() - began)
        found += chunk.ids
        look.position = chunk.end
    return found[:limit]


class WayOut(Protocol):
    """How purged events leave the outbox."""

    @property
    def stores_first(self) -> bool:
        """Whether something outside of the database has to have them before."""

    def store(self, using: str, ids: Sequence[int]) -> None:
        """Let it have them, while nothing is locked."""

    def take_out(self, using: str, ids: Sequence[int]) -> int:
        """Delete them in the open transaction; return how many."""


def move_chunk(
    operations: OperationQuerySet,
    pk: int,
    events: OutboxEventQuerySet,
    window: Window,
    way_out: WayOut,
) -> Operation | None:
    """Move the next events of an operation, and return it; None as `locked` does.

    Raises ValueError for an operation of a newer version, the database's errors, and what the way
    out raises; the operation is then as it was.
    """
    stored = _stored_first(operations, pk, events, window, way_out)
    with transaction.atomic(using=operations.db):
        operation = operations.locked(pk)
        if operation is None:
            return None
        if stored is not None and stored.position != operation.position:
            return None  # another relay was faster
        began = time.monotonic()
        chunk = stored or _next_chunk(operation, events, window)
        _move(operation, events, chunk, way_out)
        operation.save(using=operations.db)
    if not chunk.is_full:
        window.took(time.monotonic() - began + chunk.seconds)
    return operation


class Chunk(NamedTuple):
    """The next events of an operation, which stood at `position`, and where it stands behind them.

    `seconds`: how long it took to find them, as far as that was not in the transaction.
    """

    position: int
    ids: list[int]
    end: int
    seconds: float = 0.0

    @property
    def is_full(self) -> bool:
        """Whether there may be more before the end of the window."""
        return len(self.ids) == CHUNK


def _stored_first(
    operations: OperationQuerySet,
    pk: int,
    events: OutboxEventQuerySet,
    window: Window,
    way_out: WayOut,
) -> Chunk | None:
    """Let an archive outside of the database have the next events of a purge, if there is one."""
    operation = operations.active().filter(pk=pk).first() if way_out.stores_first else None
    if operation is None or operation.kind != OperationKind.PURGE:
        return None
    began = time.monotonic()
    chunk = _next_chunk(operation, events, window)
    seconds = time.monotonic() - began
    way_out.store(events.db, chunk.ids)
    return chunk._replace(seconds=seconds)


def _next_chunk(operation: Operation, events: OutboxEventQuerySet, window: Window) -> Chunk:
    if operation.kind not in MOVES:
        raise ValueError(f"kind: {operation.kind!r} is unknown to this version")
    end = min(operation.position + window.ids, operation.last)
    wanted = events.matching(EventSelection.from_json(operation.selection)).filter(
        status__in=MOVES[operation.kind].sources, id__gt=operation.position, id__lte=end
    )
    ids = list(wanted.order_by("id").values_list("id", flat=True)[:CHUNK])
    chunk = Chunk(operation.position, ids, end)
    return chunk._replace(end=min(operation.last, _seen_up_to(events, chunk)))


def _move(operation: Operation, events: OutboxEventQuerySet, chunk: Chunk, way_out: WayOut) -> None:
    now = timezone.now()
    # Never earlier than the chunk before, which a relay with another clock may have moved: events
    # of a key are due in the order of their ids.
    operation.moved_at = max(now, operation.moved_at or now)
    run, moved = MOVES[operation.kind].run, 0
    if chunk.ids and run is None:
        moved = way_out.take_out(events.db, chunk.ids)
    elif chunk.ids and run is not None:
        rows = events.filter(id__in=chunk.ids)
        moved = run(rows, at=operation.moved_at, operation=operation.pk)
    operation.done += moved
    operation.left_alone += len(chunk.ids) - moved
    operation.position = chunk.end
    operation.started_at = operation.started_at or now
    operation.failures, operation.not_before = 0, None
    operation.state = OperationState.RUNNING
    if operation.position >= operation.last:
        operation.state, operation.finished_at = OperationState.DONE, now


def _seen_up_to(events: OutboxEventQuerySet, chunk: Chunk) -> int:
    if chunk.is_full:
        return chunk.ids[-1]
    if chunk.ids:
        return chunk.end
    behind = events.filter(id__gt=chunk.end).order_by("id").values_list("id", flat=True).first()
    return sys.maxsize if behind is None else behind - 1


def _newest(events: OutboxEventQuerySet, up_to: int) -> int:
    """Return the last id up to another, or 0."""
    last = events.filter(id__lte=up_to).order_by("-id").values_list("id", flat=True).first()
    return last or 0


def note_failure(
    operations: OperationQuerySet, pk: int, error: BaseException, *, for_good: bool
) -> Operation | None:
    """Note that the chunk of an operation failed, and return the operation.

    It is tried again after a pause that grows, or has failed: `for_good`, or after so many times.
    """
    with transaction.atomic(using=operations.db):
        operation = operations.locked(pk)
        if operation is None:
            return None
        now = timezone.now()
        operation.failures += 1
        operation.error = _text(error)
        operation.not_before = now + timedelta(seconds=2**operation.failures)
        if for_good or operation.failures >= ATTEMPTS:
            operation.state, operation.finished_at = OperationState.FAILED, now
        operation.save(using=operations.db)
    return operation


def _text(error: BaseException) -> str:
    text = masked(f"{type(error).__name__}: {error}")[:LONGEST_TEXT].replace("\0", "\ufffd")
    return text.encode(errors="replace").decode()
