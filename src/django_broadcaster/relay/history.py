"""What a relay tells the dashboard: it adds up in memory and writes every few seconds.

Nothing here is needed to deliver. A relay that is killed takes its last seconds with it, and a
table that can't be written costs a line in the log.
"""

from __future__ import annotations

import logging
import time

from django.db import DatabaseError, connections
from django.utils import timezone

from django_broadcaster.models import OutboxSample
from django_broadcaster.states import OutboxEventStatus
from django_broadcaster.store import Figures, add_to_minute, count_or_estimate, minute_of, overviews

from .log_safety import loggable
from .verdicts import Report

logger = logging.getLogger("django_broadcaster.relay")

WRITE_SECONDS = 10.0
"""The least seconds between two writes of a backend's figures."""

TIME_SECONDS = 1.0
"""The least seconds between two deliveries that are timed."""

WAITING = (OutboxEventStatus.PENDING, OutboxEventStatus.RETRY, OutboxEventStatus.BLOCKED)
"""The states whose events are the backlog: what is only due later is none."""


class History:
    """The figures of one backend that this relay has not yet written."""

    def __init__(self, using: str, backend: str) -> None:
        self._using = using
        self._backend = backend
        self._figures = Figures()
        self._next_write = 0.0
        self._next_time = 0.0

    @property
    def has_news(self) -> bool:
        """Whether there are figures that are not yet written."""
        return bool(self._figures)

    def wants_times(self) -> bool:
        """Tell whether the next delivery is to be timed."""
        now = time.monotonic()
        if now < self._next_time:
            return False
        self._next_time = now + TIME_SECONDS
        return True

    def note(self, report: Report) -> None:
        """Add up what came of a delivery."""
        figures = self._figures
        figures.published += report.published
        figures.retried += report.retried
        figures.failed += report.failed
        if report.waits:
            figures.timed += len(report.waits)
            figures.waited += round(1000 * sum(report.waits))
            figures.longest = max(figures.longest, round(1000 * max(report.waits)))

    def run(self, *, looks: bool, circuit_is_open: bool) -> None:
        """Write, if it is time to; the one that `looks` also says what stands in the outbox."""
        self._figures.circuit_open |= circuit_is_open
        if time.monotonic() >= self._next_write:
            self._next_write = time.monotonic() + WRITE_SECONDS
            self.write(looks=looks)

    def write(self, *, looks: bool) -> None:
        """Write now what there is to say; raises only where the connection is lost."""
        try:
            if looks:
                self._look()
            if self._figures:
                samples = OutboxSample.objects.using(self._using)
                add_to_minute(samples, self._backend, minute_of(timezone.now()), self._figures)
            self._figures = Figures()
        except DatabaseError as error:
            if not connections[self._using].is_usable():
                raise
            logger.warning(
                "backend %r: the dashboard misses some figures: %s",
                self._backend,
                loggable(error),
                extra={"backend": self._backend},
            )

    def _look(self) -> None:
        """Note how many events wait, and for how long the first one has."""
        (found,) = overviews(self._using, [self._backend], exact=BOUND)
        counts = (count_or_estimate(self._using, found, status) for status in WAITING)
        self._figures.backlog = sum(count.number for count in counts)
        self._figures.oldest_age = round(1000 * found.lag)


BOUND = 10_000
"""Events that are looked at to count those of a state; more are estimated where that can be."""
