"""Figures for the dashboard, added up in memory and written every few seconds.

Deliveries do not depend on them. If a relay is killed, its last seconds are missing. If the table
cannot be written, a line is logged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from math import ceil

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

BACKLOG = (OutboxEventStatus.PENDING, OutboxEventStatus.RETRY, OutboxEventStatus.BLOCKED)
"""The states of the events in the backlog; events that are due later do not count."""


class History:
    """The figures of one backend that this relay has not written yet."""

    def __init__(self, using: str, alias: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._using = using
        self._alias = alias
        self._figures = Figures()
        self._latencies: list[float] = []
        self._clock = clock
        self._next_write = 0.0
        self._next_time = 0.0
        self.backlog: int | None = None
        """The events that waited when this relay counted last; None if it does not count."""

    @property
    def has_news(self) -> bool:
        """Whether there are figures that are not yet written."""
        return bool(self._figures or self._latencies)

    def take_timed_turn(self) -> bool:
        """Return True if the next delivery is timed, which is once in TIME_SECONDS."""
        now = self._clock()
        if now < self._next_time:
            return False
        self._next_time = now + TIME_SECONDS
        return True

    def add(self, report: Report) -> None:
        """Add the figures of a delivery."""
        figures = self._figures
        figures.published += report.published
        figures.retried += report.retried
        figures.failed += report.failed
        self._latencies += report.latencies

    def run(self, *, counts: bool, circuit_is_open: bool, is_paused: bool) -> None:
        """Write if it is due; with `counts`, also count the events in the outbox."""
        self._figures.circuit_open |= circuit_is_open
        self._figures.paused |= is_paused and counts  # one relay says so, which writes anyway
        if self._clock() >= self._next_write:
            self._next_write = self._clock() + WRITE_SECONDS
            if not counts:
                self.backlog = None  # another relay counts now
            self.write(counts=counts)

    def write(self, *, counts: bool) -> None:
        """Write now; raises only if the connection is lost."""
        try:
            if counts:
                self._count_backlog()
                self.backlog = self._figures.backlog
            self._sum_up()
            if self._figures:
                samples = OutboxSample.objects.using(self._using)
                add_to_minute(samples, self._alias, minute_of(timezone.now()), self._figures)
            self._figures = Figures()
        except DatabaseError as error:
            if not connections[self._using].is_usable():
                raise
            logger.warning(
                "Could not write the dashboard's figures of backend %r: %s; some are missing.",
                self._alias,
                loggable(error),
                extra={"backend": self._alias},
            )

    def _sum_up(self) -> None:
        """Put the latencies since the last write into the figures."""
        found, self._latencies = sorted(self._latencies), []
        if not found:
            return
        figures = self._figures
        figures.timed += len(found)
        figures.medians += round(1000 * len(found) * percentile(found, 0.5))
        figures.p99 = max(figures.p99, round(1000 * percentile(found, 0.99)))

    def _count_backlog(self) -> None:
        """Note how many events wait, and how long the first one has waited."""
        (found,) = overviews(self._using, [self._alias], exact=BOUND)
        counts = (count_or_estimate(self._using, found, status) for status in BACKLOG)
        self._figures.backlog = sum(count.number for count in counts)
        self._figures.oldest_age = round(1000 * found.waiting_age)


def percentile(ascending: Sequence[float], share: float) -> float:
    """Return the smallest value that at least a share of the values does not exceed."""
    return ascending[max(0, ceil(share * len(ascending)) - 1)]


BOUND = 10_000
"""The most events of a state that are counted; more are estimated if the database can."""
