"""The clock by which a relay decides that something is due, which a test can set ahead."""

from __future__ import annotations

import time


class Clock:
    """Goes on as `time.monotonic` does, ahead by the seconds of each `advance`."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._ahead

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._ahead += seconds
