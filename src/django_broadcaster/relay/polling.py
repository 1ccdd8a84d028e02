"""When a relay polls the outbox: soon after work, then less and less often."""

from __future__ import annotations

from threading import Event

from django_broadcaster.backoff import Backoff

FIRST_PAUSE = 0.001
"""Seconds of the first pause after work ran out; each further one is twice as long."""

AWAKE_PAUSE = 0.02
"""Seconds that pauses hardly exceed while there is work besides deliveries."""


class Poll:
    """Adaptive polling: soon after work, then ever less often, down to once per `interval` seconds.

    `wake` ends a pause at once.
    """

    def __init__(self, interval: float) -> None:
        self.wake = Event()
        self._interval = interval
        self._backoff = Backoff(interval, initial=FIRST_PAUSE)

    @property
    def is_idle(self) -> bool:
        """Whether the pauses are as long as they get: there was nothing for a while."""
        return self._backoff.seconds >= self._interval

    def reset(self) -> None:
        """Note that there was work."""
        self._backoff.reset()

    def stay_awake(self) -> None:
        """Keep the pauses short: there is work, though nothing to deliver."""
        self._backoff.seconds = min(self._backoff.seconds, AWAKE_PAUSE)

    def wait(self) -> None:
        """Pause, longer than last time, or until woken."""
        if self.wake.wait(self._backoff.next()):
            self._backoff.reset()

    def take_wake(self) -> bool:
        """Return True if `wake` was set since the last call."""
        if not self.wake.is_set():
            return False
        self.wake.clear()
        # Further wake-ups of the next moment may be left out, because fast polls follow this one.
        self._backoff.reset()
        return True
