"""The delays of retries: a policy without a clock or a database."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from .setting_rules import RETRIES


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with jitter and a maximum.

    With the defaults, the retries follow after about 10 seconds, 80 seconds and 11 minutes, and
    later ones after 15 minutes. An outage of ten minutes is over before the third retry.

    Args:
        initial: Seconds before the first retry.
        factor: The factor from one delay to the next.
        maximum: The maximum of a delay in seconds.
        jitter: The fraction by which a delay may be shorter or longer. With jitter, events that
            failed together are not retried together.
        max_retries: The number of retries after the first attempt, by default OUTBOX_MAX_RETRIES.
    """

    initial: float = 10.0
    factor: float = 8.0
    maximum: float = 900.0
    jitter: float = 0.1
    max_retries: int | None = None
    random: Callable[[], float] = field(default=random.random, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.initial <= 0:
            raise ValueError(f"initial: must be a positive number of seconds, not {self.initial}")
        if self.factor < 1:
            raise ValueError(f"factor: must be 1 or more, not {self.factor}")
        if self.maximum < self.initial:
            raise ValueError(
                f"maximum: must be at least the initial {self.initial} s, not {self.maximum} s"
            )
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter: must be at least 0 and less than 1, not {self.jitter}")
        if self.max_retries is not None and not RETRIES.accepts(self.max_retries):
            raise ValueError(f"max_retries: must be {RETRIES.wanted}, not {self.max_retries!r}")

    def delay(self, attempt: int, max_retries: int | None) -> float | None:
        """Return the delay before the next attempt, or None if retries are exhausted.

        Args:
            attempt: The number of the failed attempt, from 1. With `max_retries` = 3, a retry
                follows the attempts 1, 2 and 3.
            max_retries: The maximum of retries; None is without a limit.
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
