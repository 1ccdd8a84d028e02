"""How many events there are to move, and which are the first: asked before it is done."""

from __future__ import annotations

import time
from typing import NamedTuple

from django.db.models import Max, Min

from django_broadcaster.models import OutboxOperation
from django_broadcaster.models.managers import OutboxEventQuerySet
from django_broadcaster.models.selection import EventSelection
from django_broadcaster.states import OutboxEventStatus

from .chunks import Window, next_chunk
from .moves import MOVES

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

_WHERE = {
    OutboxEventStatus.PENDING: "status = 'pending'",
    OutboxEventStatus.SCHEDULED: "status IN ('scheduled', 'retry')",
    OutboxEventStatus.RETRY: "status IN ('retry', 'blocked')",
    OutboxEventStatus.BLOCKED: "status IN ('retry', 'blocked')",
    OutboxEventStatus.FAILED: "status = 'failed'",
}
"""The conditions of these indexes: SQLite takes none whose condition it is given as a parameter."""


class Estimate(NamedTuple):
    """How many events there are to move, exactly or about."""

    events: int
    is_exact: bool


class Span(NamedTuple):
    """The ids that an operation looks at: behind `start`, up to `last`."""

    start: int
    last: int


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
    few = few_of(events, kind, selection, span)
    if few is not None:
        return Estimate(len(few), is_exact=True)
    wanted = events.matching(selection).filter(status__in=MOVES[kind].sources)
    window, count, end = Window(), 0, span.last
    deadline = time.monotonic() + seconds
    while end > span.start:
        seen = span.last - end
        if seen and time.monotonic() > deadline:
            return Estimate(count * (span.last - span.start) // seen, is_exact=False)
        began = time.monotonic()
        start = max(span.start, end - window.ids)
        found = wanted.filter(id__gt=start, id__lte=end).count()
        window.took(time.monotonic() - began)
        count += found
        end = start if found else _newest(events, start)
    return Estimate(count, is_exact=True)


def few_of(
    events: OutboxEventQuerySet, kind: str, selection: EventSelection, span: Span | None = None
) -> list[int] | None:
    """Return the ids of all events to move, if their statuses have indexes, and few rows.

    Else None: then the whole table has to be looked at, or the `span`.
    """
    statuses = [each for each in MOVES[kind].sources if selection.status in ("", each)]
    if not set(statuses) <= set(INDEXED):
        return None
    ids: list[int] = []
    for status in statuses:  # one by one: an index is of one or two of them
        rows = events.extra(where=[_WHERE[status]]).filter(status=status)  # noqa: S610  # constants
        if span is not None:
            rows = rows.filter(id__gt=span.start, id__lte=span.last)
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
    few = few_of(events, kind, selection, span)
    if few is not None:
        return few[:limit]
    look = OutboxOperation(
        kind=kind, selection=selection.as_json(), position=span.start, last=span.last
    )
    window, found = Window(), list[int]()
    deadline = time.monotonic() + seconds
    while look.position < look.last and len(found) < limit and time.monotonic() < deadline:
        began = time.monotonic()
        chunk = next_chunk(look, events, window)
        window.took(time.monotonic() - began)
        found += chunk.ids
        look.position = chunk.end
    return found[:limit]


def _newest(events: OutboxEventQuerySet, up_to: int) -> int:
    """Return the last id up to another, or 0."""
    last = events.filter(id__lte=up_to).order_by("-id").values_list("id", flat=True).first()
    return last or 0
