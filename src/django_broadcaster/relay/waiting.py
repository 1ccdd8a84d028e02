"""The events that were put off unsent, because their one destination of many is away.

A few events try the destination after each of its pauses. If all others came due with them, each
would be written twice in each pause, only to be put off again. So they wait for longer, and their
ids are remembered here: when the destination is back, they are due at once.
"""

from __future__ import annotations

from array import array
from collections import Counter
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
        self._unsent: Counter[str] = Counter()
        self.due: set[int] = set()
        """Ids of events whose destination is back, and that have not been made due yet."""

    def begin(self) -> None:
        """Note that a batch begins."""
        self._unsent.clear()

    def add(self, destination: str, row_id: int) -> bool:
        """Note an unsent event; return False if it is to try the destination after its pause."""
        self._unsent[destination] += 1
        if self._unsent[destination] <= PROBES or self._count >= MOST:
            return False
        self._ids.setdefault(destination, array("q")).append(row_id)
        self._count += 1
        return True

    def note_returned(self, destinations: Iterable[str]) -> None:
        """Note that destinations are back: the events that waited for them are due."""
        for destination in destinations:
            ids = self._ids.pop(destination, None)
            if ids is not None:
                self._count -= len(ids)
                self.due.update(ids)
