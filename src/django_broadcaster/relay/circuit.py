"""The circuit breaker of one backend: how much may be sent while its broker is or was away."""

from __future__ import annotations

import time
from collections.abc import Callable

from django_broadcaster.backoff import Backoff


class Circuit:
    """Closed while the broker answers; open, with a growing pause, while it does not.

    After a pause it is half open: one batch of at most `probe_size` events goes out to see whether
    the broker is back. `initial` and `maximum` are the first and the longest pause in seconds.

    It is doubted where the broker took others right before an event failed. Then the pause is for
    what failed, and probes of others need not wait for its end.
    """

    def __init__(
        self,
        *,
        initial: float = 0.5,
        maximum: float = 10.0,
        probe_size: int = 10,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.probe_size = probe_size
        self._clock = clock
        self._backoff = Backoff(maximum, initial=initial)
        self._ends_at = 0.0
        self.is_doubted = False

    @property
    def is_closed(self) -> bool:
        """Whether the broker answered last time."""
        return self._backoff.seconds == 0

    def allowance(self, wanted: int) -> int:
        """Return how many events may be sent now: all, a probe, or none."""
        if self.is_closed:
            return wanted
        is_due = self.is_doubted or self.seconds_left() == 0
        return min(wanted, self.probe_size) if is_due else 0

    def seconds_left(self) -> float:
        """Return the seconds until the next probe; 0 if it is due or the circuit is closed."""
        return max(0.0, self._ends_at - self._clock())

    def succeeded(self) -> None:
        """Note that the broker answered."""
        self._backoff.reset()
        self._ends_at = 0.0
        self.is_doubted = False

    def failed(self, at_least: float = 0.0, *, doubted: bool = False) -> None:
        """Note that the broker is away: open, and pause longer if it was so already.

        `at_least` is how many seconds the broker itself wants to be left alone, and `doubted` says
        that this may be about the events that failed alone.
        """
        self.is_doubted = doubted and not at_least
        self._ends_at = self._clock() + self._backoff.next(at_least)
