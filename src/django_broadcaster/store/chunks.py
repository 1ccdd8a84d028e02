"""The next events of an operation, found by queries of ascending ranges of ids.

If a range has few events to move, its query may read all of it, so `Window` limits its length. The
search skips gaps between ids.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from django_broadcaster.models import OutboxOperation
from django_broadcaster.models.managers import OutboxEventQuerySet
from django_broadcaster.models.selection import EventSelection

from .moves import MOVES

CHUNK = 1000
"""Maximum of events that one transaction moves."""


class Window:
    """The number of ids in one query: doubled after a fast query, halved after a slow one.

    So a query takes about the same time for every size of the table and every plan.
    """

    FIRST = 10_000
    MOST = 1_000_000
    QUICK_SECONDS = 0.05
    SLOW_SECONDS = 0.15

    def __init__(self) -> None:
        self.ids = self.FIRST

    def took(self, seconds: float) -> None:
        """Adjust the number of ids to the duration of a query."""
        if seconds < self.QUICK_SECONDS:
            self.ids = min(self.MOST, self.ids * 2)
        elif seconds > self.SLOW_SECONDS:
            self.ids = max(1, self.ids // 2)


class Chunk(NamedTuple):
    """The next events of an operation.

    The operation is at `position` before them and at `end` after them. `seconds` is the duration
    of the search, if that was outside of the transaction.
    """

    position: int
    ids: list[int]
    end: int
    seconds: float = 0.0

    @property
    def is_full(self) -> bool:
        """Whether the window may have more events."""
        return len(self.ids) == CHUNK


def next_chunk(operation: OutboxOperation, events: OutboxEventQuerySet, window: Window) -> Chunk:
    """Return the next events of an operation; raise ValueError if its kind is unknown."""
    if operation.kind not in MOVES:
        raise ValueError(f"kind: {operation.kind!r} is unknown to this version")
    end = min(operation.position + window.ids, operation.last)
    wanted = events.matching(EventSelection.from_json(operation.selection)).filter(
        status__in=MOVES[operation.kind].sources, id__gt=operation.position, id__lte=end
    )
    ids = list(wanted.order_by("id").values_list("id", flat=True)[:CHUNK])
    chunk = Chunk(operation.position, ids, end)
    return chunk._replace(end=min(operation.last, _seen_up_to(events, chunk)))


def _seen_up_to(events: OutboxEventQuerySet, chunk: Chunk) -> int:
    if chunk.is_full:
        return chunk.ids[-1]
    if chunk.ids:
        return chunk.end
    following = events.filter(id__gt=chunk.end).order_by("id").values_list("id", flat=True).first()
    return sys.maxsize if following is None else following - 1
