"""Events that were not sent, because their destination, one of many, is unavailable.

A few events try the destination after each of its pauses. If all others became due with them, each
row would be written twice in each pause. So the others wait for longer, and their ids are
remembered here: when the destination is available again, they are due at once.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Final

WAIT_SECONDS: Final = 300.0
"""How long an event waits if its destination stays unavailable, or if its relay was replaced."""

MOST: Final = 100_000
"""Ids that are remembered, of eight bytes each. Further events are due with those tried."""


PROBES: Final = 4
"""Unsent events of a batch that try each destination after its pause, so that some always do."""


class Waiting:
    """The ids of events that were not sent, by destination."""

    def __init__(self) -> None:
        self._ids: dict[str, array[int]] = {}
        self._count = 0
        self.due: set[int] = set()
        """Ids of events whose destination is available again, and that are not due yet."""

    def has_room_for(self, count: int) -> bool:
        """Return True if `count` more events can be remembered."""
        return self._count + count <= MOST

    def add(self, events: Iterable[tuple[str, int]]) -> None:
        """Remember events that wait: the destination and the id of each."""
        for destination, row_id in events:
            self._ids.setdefault(destination, array("q")).append(row_id)
            self._count += 1

    def note_returned(self, destinations: Iterable[str]) -> None:
        """Note that destinations are available again: the events that wait for them are due."""
        for destination in destinations:
            ids = self._ids.pop(destination, None)
            if ids is not None:
                self._count -= len(ids)
                self.due.update(ids)
