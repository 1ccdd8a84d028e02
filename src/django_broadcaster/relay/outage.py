"""The log of what fails for a while: a line when it begins, and then one a minute.

A database outage has one line for all threads of a process.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Lock

from .log_safety import loggable

logger = logging.getLogger("django_broadcaster.relay")

REMINDER_SECONDS = 60.0
"""Seconds between two lines about the same outage."""

SHORT_SECONDS = 1.0
"""An outage as short as this, such as a deadlock, has no line at its end."""

MOST_TEXTS = 5
"""The most errors of one outage that have a line of their own."""


class Repeats:
    """Lets an error be logged once a minute for as long as it repeats itself."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._texts: set[str] = set()
        self._logged_at = 0.0

    def take_line(self, text: str) -> bool:
        """Return True if the text has a line now: it is a new one, or the last line is old."""
        now = self._clock()
        is_new = text not in self._texts and len(self._texts) < MOST_TEXTS
        if not is_new and now < self._logged_at + REMINDER_SECONDS:
            return False
        self._texts.add(text)
        self._logged_at = now
        return True

    def reset(self) -> None:
        """Note that it no longer fails."""
        self._texts.clear()


class DatabaseOutage:
    """Logs an outage of the database for all threads of a relay process."""

    def __init__(self, using: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._using = using
        self._clock = clock
        self._lock = Lock()
        self._failing: set[str] = set()
        self._repeats = Repeats(clock)
        self._since = 0.0

    def note(self, thread: str, error: BaseException, pause: float) -> None:
        """Note that the database failed a thread, which retries after `pause` seconds."""
        text, now = loggable(error), self._clock()
        with self._lock:
            if not self._failing:
                self._since = now
                self._repeats.reset()
            self._failing.add(thread)
            if not self._repeats.take_line(text):
                return
            since = now - self._since
        lasting = f" for {since:.0f} s" if since >= SHORT_SECONDS else ""
        logger.warning(
            "Database %r is failing%s: %s; retrying in %.1f s.", self._using, lasting, text, pause
        )

    def end(self, thread: str) -> None:
        """Note that the database works for a thread; the outage ends if it does for all."""
        if thread not in self._failing:
            return
        with self._lock:
            self._failing.discard(thread)
            lasted = self._clock() - self._since
            if self._failing or lasted < SHORT_SECONDS:
                return
        logger.warning("Database %r is available again after %.0f s.", self._using, lasted)
