"""The next events of an operation: looked for in ranges of ids, in their order.

A look at a range that has hardly anything to move may have to read it all, so it is kept as short
as `Window` says. Where ids are missing, it is jumped.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from django_broadcaster.models import OutboxOperation
from django_broadcaster.models.managers import OutboxEventQuerySet
from django_broadcaster.models.selection import EventSelection

from .moves import MOVES

CHUNK = 1000
"""Events that one transaction moves at the most."""


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


def next_chunk(operation: OutboxOperation, events: OutboxEventQuerySet, window: Window) -> Chunk:
    """Return the next events of an operation; raises ValueError for one of a newer version."""
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
    behind = events.filter(id__gt=chunk.end).order_by("id").values_list("id", flat=True).first()
    return sys.maxsize if behind is None else behind - 1
