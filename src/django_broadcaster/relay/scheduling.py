"""The next event of each periodic function, written to the outbox before its time.

The id of an event is the name of its schedule and the time, so several relays write one row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Final

from django.db import router

from django_broadcaster.backends.handler import HANDLERS, backends
from django_broadcaster.exceptions import BackendConfigurationError
from django_broadcaster.models import OutboxEvent
from django_broadcaster.periodic import Schedule, schedules
from django_broadcaster.publishing import publish_directly
from django_broadcaster.store import DatabaseClock

from .log_safety import loggable
from .separate_thread import Runner

logger = logging.getLogger("django_broadcaster.relay")

SOURCE: Final = "/periodic"

RETRY_SECONDS: Final = 30.0
"""Seconds until the next attempt to write an event."""

_NEVER: Final = datetime.max.replace(tzinfo=UTC)


class Scheduling:
    """Writes the next event of each schedule whose events go to one backend."""

    def __init__(
        self,
        using: str,
        alias: str,
        runner: Runner,
        database_clock: DatabaseClock,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._using = using
        self._alias = alias
        self._runner = runner
        self._database_clock = database_clock
        self._clock = clock
        self._next: dict[str, datetime] = {}
        """By the name of a schedule, the time of the event that is in the outbox."""
        self._next_at = 0.0

    def run(self) -> None:
        """Write the events that are missing; raises the database's errors of the relay."""
        if not schedules or self._clock() < self._next_at:
            return
        if self._using != router.db_for_write(OutboxEvent):
            return  # the relay of that outbox writes them, so that they exist once
        now = datetime.fromtimestamp(self._database_clock.timestamp(), UTC)
        for schedule in schedules:
            known = self._next.get(schedule.name)
            if known is None or known <= now:
                self._write(schedule, now)

    def _write(self, schedule: Schedule, now: datetime) -> None:
        try:
            if _writer_of(schedule) != self._alias:
                return
            moment = schedule.after(now)
            if moment is not None:
                # Receivers of `event_created` are code of the project.
                self._runner.run(self._publish, schedule, moment)
        except Exception as error:
            self._next_at = self._clock() + RETRY_SECONDS
            logger.warning(
                "Could not schedule the periodic event %r: %s; retrying in %g s.",
                schedule.name,
                loggable(error),
                RETRY_SECONDS,
                extra={"backend": self._alias},
            )
        else:
            self._next[schedule.name] = moment or _NEVER

    def _publish(self, schedule: Schedule, moment: datetime) -> None:
        alias = _alias_of(schedule)
        if alias is None:
            raise BackendConfigurationError(
                "no backend of OUTBOX_PUBLISHERS runs handlers; add a LocalBackend"
            )
        publish_directly(
            schedule.name,
            SOURCE,
            {"cron": schedule.cron},
            event_id=f"{schedule.name} {moment:%Y-%m-%dT%H:%MZ}",
            time=moment,
            backend=alias,
            scheduled_at=moment,
            using=self._using,
            needs_transaction=False,
        )


def _writer_of(schedule: Schedule) -> str | None:
    """Return the alias whose relay writes the events; the first one if they can go nowhere."""
    alias, known = _alias_of(schedule), backends.aliases()
    return alias if alias in known else next(iter(known), None)


def _alias_of(schedule: Schedule) -> str | None:
    """Return the alias that a schedule's events go to; None if no backend runs handlers."""
    if schedule.backend is not None:
        return schedule.backend
    local = [alias for alias in backends.aliases() if backends.runs_handlers(alias)]
    return HANDLERS if HANDLERS in local else next(iter(local), None)
