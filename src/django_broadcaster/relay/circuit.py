"""The circuit breaker of one backend: how much may be sent while its broker is or was away."""

from __future__ import annotations

import time
from collections.abc import Callable


class Circuit:
    """Closed while the broker answers; open, with a growing pause, while it does not.

    After a pause it is half open: one batch of at most `probe_size` events goes out to see whether
    the broker is back. `initial` and `maximum` are the first and the longest pause in seconds.
    """

    def __init__(
        self,
        *,
        initial: float = 0.5,
        maximum: float = 10.0,
        probe_size: int = 10,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.initial = initial
        self.maximum = maximum
        self.probe_size = probe_size
        self._clock = clock
        self._pause = 0.0
        self._opened_at = 0.0

    @property
    def is_closed(self) -> bool:
        """Whether the broker answered last time."""
        return self._pause == 0

    def allowance(self, wanted: int) -> int:
        """Return how many events may be sent now: all, a probe, or none."""
        if self.is_closed:
            return wanted
        return min(wanted, self.probe_size) if self.seconds_left() == 0 else 0

    def seconds_left(self) -> float:
        """Return the seconds until the next probe; 0 if it is due or the circuit is closed."""
        return max(0.0, self._opened_at + self._pause - self._clock())

    def succeeded(self) -> None:
        """Note that the broker answered."""
        self._pause = 0.0

    def failed(self, at_least: float = 0.0) -> None:
        """Note that the broker is away: open, and pause longer if it was so already.

        `at_least` is how many seconds the broker itself wants to be left alone.
        """
        self._pause = max(at_least, min(self.maximum, self._pause * 2 or self.initial))
        self._opened_at = self._clock()
