"""The events that were put off unsent, because their one destination of many is away.

A few events try the destination after each of its pauses. If all others came due with them, each
would be written twice in each pause, only to be put off again. So they wait for longer, and their
ids are remembered here: when the destination is back, they are due at once.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable
from typing import Final

WAIT_SECONDS: Final = 300.0
"""How long an event waits whose destination does not come back, or whose relay has changed."""

MOST: Final = 100_000
"""Ids that are remembered, of eight bytes each. Events beyond that come due with those tried."""


class Waiting:
    """The ids of events that were put off unsent, by destination."""

    def __init__(self) -> None:
        self._ids: dict[str, array[int]] = {}
        self._count = 0

    def has_room(self) -> bool:
        """Return True if another event may wait."""
        return self._count < MOST

    def add(self, destination: str, row_id: int) -> None:
        """Note that an event waits for a destination."""
        self._ids.setdefault(destination, array("q")).append(row_id)
        self._count += 1

    def take(self, destinations: Iterable[str]) -> Collection[int]:
        """Return the ids of the events that waited for destinations, and forget them."""
        found: set[int] = set()
        for destination in destinations:
            ids = self._ids.pop(destination, None)
            if ids is not None:
                self._count -= len(ids)
                found.update(ids)
        return found
