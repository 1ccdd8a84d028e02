"""The events that were put off unsent, because their one destination of many is away.

A few events try the destination after each of its pauses. If all others came due with them, each
would be written twice in each pause, only to be put off again. So they wait for longer, and their
ids are remembered here: when the destination is back, they are due at once.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Final

WAIT_SECONDS: Final = 300.0
"""How long an event waits whose destination does not come back, or whose relay has changed."""

MOST: Final = 100_000
"""Ids that are remembered, of eight bytes each. Events beyond that come due with those tried."""


PROBES: Final = 4
"""Unsent events of a batch that try each destination after its pause: someone always does."""


class Waiting:
    """The ids of events that were put off unsent, by destination."""

    def __init__(self) -> None:
        self._ids: dict[str, array[int]] = {}
        self._count = 0
        self.due: set[int] = set()
        """Ids of events whose destination is back, and that have not been made due yet."""

    def has_room_for(self, count: int) -> bool:
        """Return True if so many more events can be remembered."""
        return self._count + count <= MOST

    def add(self, events: Iterable[tuple[str, int]]) -> None:
        """Remember events that wait: the destination and the id of each."""
        for destination, row_id in events:
            self._ids.setdefault(destination, array("q")).append(row_id)
            self._count += 1

    def note_returned(self, destinations: Iterable[str]) -> None:
        """Note that destinations are back: the events that waited for them are due."""
        for destination in destinations:
            ids = self._ids.pop(destination, None)
            if ids is not None:
                self._count -= len(ids)
                self.due.update(ids)
