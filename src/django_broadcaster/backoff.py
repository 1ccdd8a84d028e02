"""Pauses between attempts: each twice as long as the one before, up to a maximum."""

from __future__ import annotations

FIRST_PAUSE = 0.2
MAX_PAUSE = 10.0
"""Seconds between attempts to reach a database, by default: the first pause and the longest."""


class Backoff:
    """A pause that doubles from `initial` up to `maximum` seconds, until an attempt succeeds."""

    def __init__(self, maximum: float | None = None, *, initial: float | None = None) -> None:
        self._initial = FIRST_PAUSE if initial is None else initial
        self._maximum = MAX_PAUSE if maximum is None else maximum
        self.seconds = 0.0
        """The pause that is due; 0 if the last attempt succeeded."""

    def next(self, at_least: float = 0.0) -> float:
        """Return the seconds to wait before the next attempt."""
        doubled = min(self._maximum, self.seconds * 2 or self._initial)
        self.seconds = max(at_least, doubled)
        return self.seconds

    def reset(self) -> None:
        """Note that an attempt succeeded."""
        self.seconds = 0.0
