"""The circuit breaker of one backend: how much may be sent after its broker was unavailable."""

from __future__ import annotations

import time
from collections.abc import Callable

from django_broadcaster.backoff import Backoff


class Circuit:
    """Closed while the broker is available; open, with growing pauses, while it is not.

    After a pause it is half open: a probe of at most `probe_size` events shows whether the broker
    is available again. `initial` and `maximum` are the first and the longest pause in seconds.

    It is doubted if the broker accepted other events right before one failed. Then the pause is for
    the event that failed, and probes with other events need not wait for its end.
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
        """Whether the broker was available last time."""
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
        """Note that the broker is available."""
        self._backoff.reset()
        self._ends_at = 0.0
        self.is_doubted = False

    def failed(self, at_least: float = 0.0, *, doubted: bool = False) -> None:
        """Note that the broker is unavailable: open, and pause longer if it was open already.

        Args:
            at_least: The pause in seconds that the broker asked for.
            doubted: Whether the failure may be about the events that failed alone.
        """
        self.is_doubted = doubted and not at_least
        self._ends_at = self._clock() + self._backoff.next(at_least)
