"""One line a minute about what was delivered to a backend, from figures that are in memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from .verdicts import Report

logger = logging.getLogger("django_broadcaster.relay")

SUMMARY_SECONDS = 60.0
"""The least seconds between two lines of a backend."""


class Summary:
    """Counts the deliveries of this relay to one backend, and logs them once a minute."""

    def __init__(self, alias: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._alias = alias
        self._clock = clock
        self._since = clock()
        self._published = self._retried = self._failed = 0

    def add(self, report: Report) -> None:
        """Add the figures of a delivery."""
        self._published += report.published
        self._retried += report.retried
        self._failed += report.failed

    def run(self, lease_id: int, backlog: int | None) -> None:
        """Log a line if it is due, unless nothing happened and nothing waits."""
        if self._clock() >= self._since + SUMMARY_SECONDS:
            self._write(lease_id, backlog, is_wanted=bool(backlog))

    def end(self, lease_id: int, backlog: int | None) -> None:
        """Log what was delivered since the last line."""
        self._write(lease_id, backlog, is_wanted=False)

    def _write(self, lease_id: int, backlog: int | None, *, is_wanted: bool) -> None:
        now = self._clock()
        counts = self._published, self._retried, self._failed
        if any(counts) or is_wanted:
            logger.info(
                "Backend %r: %d delivered, %d retried, %d dead in %.0f s%s.",
                self._alias,
                *counts,
                now - self._since,
                "" if backlog is None else f", backlog {backlog}",
                extra={
                    "backend": self._alias,
                    "relay": lease_id,
                    "published": self._published,
                    "retried": self._retried,
                    "failed": self._failed,
                    "backlog": backlog,
                },
            )
        self._since = now
        self._published = self._retried = self._failed = 0
