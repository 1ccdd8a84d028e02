"""Pauses of destinations that do not answer, each for itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from django_broadcaster.backoff import Backoff

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
"""Seconds. A destination that asks for more gets more."""


@dataclass(slots=True)
class _Pause:
    backoff: Backoff
    ends_at: float


class Pauses:
    """When each destination may be tried again; those that answer are not in it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pauses: dict[str, _Pause] = {}
        self._returned: set[str] = set()

    def __contains__(self, name: str) -> bool:
        """Return True if a destination did not answer last time, so that one event is to try it."""
        return name in self._pauses

    def seconds_left(self, name: str) -> float:
        """Return the seconds left of the pause of a destination."""
        pause = self._pauses.get(name)
        return max(0.0, pause.ends_at - self._clock()) if pause else 0.0

    def failed(self, name: str, at_least: float) -> float:
        """Begin a pause twice as long as the one before; return its seconds."""
        before = self._pauses.get(name)
        backoff = before.backoff if before else Backoff(LONGEST_PAUSE, initial=FIRST_PAUSE)
        seconds = max(backoff.next(), at_least)
        self._pauses[name] = _Pause(backoff, self._clock() + seconds)
        self._returned.discard(name)
        return seconds

    def succeeded(self, name: str) -> None:
        """Note that a destination answered."""
        if self._pauses.pop(name, None):
            self._returned.add(name)

    def returned(self) -> set[str]:
        """Return the destinations that answer again since the last call."""
        returned, self._returned = self._returned, set()
        return returned
