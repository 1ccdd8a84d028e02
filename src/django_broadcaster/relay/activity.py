"""What a thread of the relay is at, and since when it has shown no sign of life."""

from __future__ import annotations

import time
from collections.abc import Callable


class Activity:
    """Told by one thread, asked by others: what it is at stands in one value, replaced whole."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._now: tuple[str, float] = ("starting", clock())

    @property
    def doing(self) -> str:
        """What the thread is at, in a word or two."""
        return self._now[0]

    @property
    def silence(self) -> float:
        """Seconds without a sign of life; the pauses that it announced do not count."""
        return max(0.0, self._clock() - self._now[1])

    def begin(self, doing: str, *, pause: float = 0.0) -> None:
        """Say what comes next, and for how many seconds nothing is heard of it on purpose."""
        self._now = (doing, self._clock() + pause)

    def go_on(self) -> None:
        """Give a sign of life in the middle of something long."""
        self._now = (self._now[0], self._clock())
