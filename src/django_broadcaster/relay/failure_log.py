"""The log of failed events: a line for each, with a reason that holds nothing of the event."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from django_broadcaster.error_places import place_of
from django_broadcaster.exceptions import DeliveryError
from django_broadcaster.redaction import error_text
from django_broadcaster.store import PendingRow

from .log_safety import loggable_event_error, loggable_traceback
from .verdicts import Verdicts

logger = logging.getLogger("django_broadcaster.relay")

texts = logging.getLogger("django_broadcaster.relay.errors")
"""Has the texts of events' errors at DEBUG. They may repeat the payload."""

MAX_LINES = 10
"""Failed events of one batch with a line of their own; one more line counts the others."""

TRACEBACK_SECONDS = 60.0
"""The least seconds between two tracebacks of the same failure."""

MOST_KNOWN = 1000
"""The most failures whose last traceback is remembered."""

Failure = tuple[PendingRow, DeliveryError, float | None]
"""A row, its error, and the seconds until it is retried; None for a dead letter."""


class FailureLog:
    """Logs the failed events of one backend.

    A dead letter is an error and has the class of what was raised in `exc_info`, by which error
    trackers group. The same failure has a traceback at most once a minute.
    """

    def __init__(self, alias: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._alias = alias
        self._clock = clock
        self._shown_at: dict[tuple[object, ...], float] = {}

    def write(self, verdicts: Verdicts, lease_id: int) -> None:
        """Log the failures among the verdicts on a batch."""
        failed: list[Failure] = [(row, error, None) for row, error in verdicts.dead_letter]
        failed += [(row, error, delay) for row, delay, error in verdicts.retry if error.sent]
        for each in failed[:MAX_LINES]:
            self._write_one(*each, lease_id)
        if rest := failed[MAX_LINES:]:
            dead = sum(delay is None for _, _, delay in rest)
            logger.log(
                logging.ERROR if dead else logging.WARNING,
                "%d more events of backend %r failed in this batch: %d retrying, %d dead-lettered.",
                len(rest),
                self._alias,
                len(rest) - dead,
                dead,
                extra={"backend": self._alias, "relay": lease_id},
            )

    def _write_one(
        self, row: PendingRow, error: DeliveryError, delay: float | None, lease_id: int
    ) -> None:
        is_dead = delay is None
        raised = error.unforeseen or error
        handlers = ", ".join(name for name, _ in error.handlers)
        place = place_of(error.unforeseen) if error.unforeseen else ""
        names = {
            "backend": self._alias,
            "relay": lease_id,
            "event_id": row.event_id,
            "event_type": row.event_type,
            "row": row.id,
            "partition": row.partition,
            "attempt": row.retry_count + 1,
            "error_class": type(raised).__name__,
            "handler": handlers,
            "place": place,
        }
        shows = bool(error.unforeseen) and self._has_traceback(
            is_dead, type(raised), handlers, place
        )
        logger.log(
            logging.ERROR if is_dead else logging.WARNING,
            "Event %s (id %d, %s) of backend %r failed at attempt %d: %s; %s.",
            row.event_id,
            row.id,
            row.event_type,
            self._alias,
            row.retry_count + 1,
            loggable_event_error(error),
            "dead-lettered" if is_dead else f"retrying in {delay:.1f} s",
            extra=names,
            exc_info=loggable_traceback(raised, shows=shows) if is_dead or shows else None,
        )
        if texts.isEnabledFor(logging.DEBUG):
            texts.debug(
                "Event %s (id %d) of backend %r failed with this error: %s",
                row.event_id,
                row.id,
                self._alias,
                error_text(error, has_details=False),
                extra=names,
            )

    def _has_traceback(self, *fingerprint: object) -> bool:
        """Return True if a failure has its traceback now, which is at most once a minute."""
        now = self._clock()
        if now < self._shown_at.get(fingerprint, float("-inf")) + TRACEBACK_SECONDS:
            return False
        if len(self._shown_at) >= MOST_KNOWN:
            self._shown_at.clear()
        self._shown_at[fingerprint] = now
        return True
