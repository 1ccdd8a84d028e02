"""When and how often to retry an event: pure functions, without a clock or a database."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from .setting_rules import RETRIES


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with jitter and a cap.

    `initial` and `maximum` are seconds, `factor` multiplies the delay from one retry to the next,
    and `jitter` is the fraction by which a delay may be shorter or longer, though never longer than
    `maximum`, so that events that failed together do not come back together. `max_retries` is the
    number of retries after the first attempt, by default OUTBOX_MAX_RETRIES.

    With the defaults, the retries follow after about 10 seconds, 80 seconds and 11 minutes, then
    every 15 minutes. So an outage of ten minutes is over before the third retry.
    """

    initial: float = 10.0
    factor: float = 8.0
    maximum: float = 900.0
    jitter: float = 0.1
    max_retries: int | None = None
    random: Callable[[], float] = field(default=random.random, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.initial <= 0:
            raise ValueError("initial: seconds before the first retry, must be above 0")
        if self.factor < 1:
            raise ValueError("factor: must be 1 or more")
        if self.maximum < self.initial:
            raise ValueError("maximum: seconds, must not be below initial")
        if not 0 <= self.jitter < 1:
            raise ValueError("jitter: a fraction, must be from 0 up to 1")
        if self.max_retries is not None and not RETRIES.accepts(self.max_retries):
            raise ValueError(f"max_retries: must be {RETRIES.wanted}")

    def delay(self, attempt: int, max_retries: int | None) -> float | None:
        """Return the seconds to wait after failed attempt number `attempt`, or None when exhausted.

        Attempts count from 1, so the first attempt is no retry: with `max_retries` = 3 the
        attempts 1, 2 and 3 are followed by another. None for `max_retries` never gives up.
        """
        if max_retries is not None and attempt > max_retries:
            return None
        return self._jittered(self._backoff(attempt))

    def _backoff(self, attempt: int) -> float:
        try:
            return min(self.maximum, self.initial * self.factor ** (attempt - 1))
        except OverflowError:
            return self.maximum

    def _jittered(self, seconds: float) -> float:
        shortest = seconds * (1 - self.jitter)
        longest = min(self.maximum, seconds * (1 + self.jitter))
        return min(longest, shortest + (longest - shortest) * self.random())
