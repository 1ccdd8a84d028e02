"""Previews of operations: the number of events to move, and the first of them."""

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
"""Events in indexed statuses up to which the events of a selection are read exactly."""

_BY_ID = ("publisher_backend", "id")
_BY_KEY = ("publisher_backend", "partition_key", "id")
INDEXED = {
    OutboxEventStatus.PENDING: _BY_ID,
    OutboxEventStatus.SCHEDULED: ("publisher_backend", "scheduled_at", "id"),
    OutboxEventStatus.RETRY: _BY_KEY,
    OutboxEventStatus.BLOCKED: _BY_KEY,
    OutboxEventStatus.FAILED: _BY_ID,
}
"""The statuses that have an index, and its order: a query in that order uses the index."""

_WHERE = {
    OutboxEventStatus.PENDING: "status = 'pending'",
    OutboxEventStatus.SCHEDULED: "status IN ('scheduled', 'retry')",
    OutboxEventStatus.RETRY: "status IN ('retry', 'blocked')",
    OutboxEventStatus.BLOCKED: "status IN ('retry', 'blocked')",
    OutboxEventStatus.FAILED: "status = 'failed'",
}
"""The conditions of these indexes; SQLite does not match a condition with a parameter."""


class Estimate(NamedTuple):
    """The number of events to move, exact or estimated."""

    events: int
    is_exact: bool


class Span(NamedTuple):
    """The ids that an operation searches: greater than `start`, up to `last`."""

    start: int
    last: int


def span_of(events: OutboxEventQuerySet, selection: EventSelection) -> Span:
    """Return the ids to search for a selection. The query is cheap for every selection."""
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
    """Count the events to move for about `seconds`, then extrapolate.

    The count begins with the newest events, which selections match more often than the oldest. If
    the statuses of the selection have few events, as dead letters usually do, the count is exact.
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
    """Return the ids of all events to move, if their statuses have indexes and few rows.

    Otherwise return None: then a search has to read the whole table, or the `span`.
    """
    statuses = [each for each in MOVES[kind].sources if selection.status in ("", each)]
    if not set(statuses) <= set(INDEXED):
        return None
    ids: list[int] = []
    for status in statuses:  # a query each: an index has one or two statuses
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
    """Return the ids of the first events to move that are found within `seconds`."""
    few = few_of(events, kind, selection, span)
    if few is not None:
        return few[:limit]
    preview = OutboxOperation(
        kind=kind, selection=selection.as_json(), position=span.start, last=span.last
    )
    window, found = Window(), list[int]()
    deadline = time.monotonic() + seconds
    while preview.position < preview.last and len(found) < limit and time.monotonic() < deadline:
        began = time.monotonic()
        chunk = next_chunk(preview, events, window)
        window.took(time.monotonic() - began)
        found += chunk.ids
        preview.position = chunk.end
    return found[:limit]


def _newest(events: OutboxEventQuerySet, up_to: int) -> int:
    """Return the highest id up to `up_to`, or 0."""
    last = events.filter(id__lte=up_to).order_by("-id").values_list("id", flat=True).first()
    return last or 0
