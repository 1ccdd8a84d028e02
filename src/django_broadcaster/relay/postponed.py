"""Events that were not sent, because their destination, one of many, is unavailable.

A few events try the destination after each of its pauses. If all others became due with them, each
row would be written twice in each pause. So the others wait for longer, and their ids are
remembered here: when the destination is available again, they are due at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

POSTPONE_SECONDS: Final = 300.0
"""How long an event waits if its destination stays unavailable, or if its relay was replaced."""

MOST: Final = 100_000
"""Ids that are remembered, of about 100 bytes each. Further events are due with those tried."""


PROBES: Final = 4
"""Unsent events of a batch that try each destination after its pause, so that some always do."""


class Postponed:
    """The ids of events that were not sent, each with its destination."""

    def __init__(self) -> None:
        self._destinations: dict[int, str] = {}
        self.due: set[int] = set()
        """Ids of events whose destination is available again, and that are not due yet."""

    def has_room_for(self, count: int) -> bool:
        """Return True if `count` more events can be remembered."""
        return len(self._destinations) + count <= MOST

    def add(self, events: Iterable[tuple[str, int]]) -> None:
        """Remember events that wait: the destination and the id of each."""
        self._destinations.update((row_id, destination) for destination, row_id in events)

    def forget(self, ids: Iterable[int]) -> None:
        """Note that events wait no longer: they became due."""
        for row_id in ids:
            self._destinations.pop(row_id, None)
            self.due.discard(row_id)

    def make_due(self, destinations: Iterable[str]) -> None:
        """Note that destinations are available again: the events that wait for them are due."""
        if names := frozenset(destinations):
            due = {row_id for row_id, name in self._destinations.items() if name in names}
            self.forget(due)
            self.due |= due
