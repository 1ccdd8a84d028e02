"""Deliveries as others see them: signals for receivers, and lines in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import timedelta

from django.dispatch import Signal
from django.utils import timezone

from django_broadcaster.models import OutboxEvent
from django_broadcaster.redaction import error_text
from django_broadcaster.signals import event_failed, event_published, event_retried
from django_broadcaster.states import OutboxEventStatus
from django_broadcaster.store import PendingRow

from .verdicts import Report, Verdicts, spends_retry

logger = logging.getLogger("django_broadcaster.relay")


class Announcer:
    """Sends the signals of a delivery; costs nothing for a signal without receivers.

    Rows are read before the settle, because RETENTION zero deletes them with it, and brought up
    to date here afterwards.
    """

    def __init__(self, using: str) -> None:
        self._using = using
        self._events: dict[int, OutboxEvent] = {}

    def read_events(self, verdicts: Verdicts) -> None:
        """Read the events that receivers wait for."""
        ids: list[int] = []
        if _heard(event_published):
            ids += (row.id for row in verdicts.published)
        if _heard(event_retried):
            ids += (row.id for row, _, _ in verdicts.retry)
        if _heard(event_failed):
            ids += (row.id for row, _ in verdicts.dead_letter)
        # Events read by an earlier attempt are kept: their rows may be settled already.
        ids = [row_id for row_id in ids if row_id not in self._events]
        if ids:
            self._events |= OutboxEvent.objects.using(self._using).in_bulk(ids)

    @property
    def has_news(self) -> bool:
        """Whether events were read that receivers wait for."""
        return bool(self._events)

    def announce(self, verdicts: Verdicts) -> None:
        """Send the signals of the events that were read."""
        now = timezone.now()
        for event in self._known(verdicts.published):
            event.status, event.published_at = OutboxEventStatus.PUBLISHED, now
            event_published.send_robust(sender=OutboxEvent, event=event)
        for row, delay, error in verdicts.retry:
            for event in self._known([row]):
                event.status, event.last_error = OutboxEventStatus.RETRY, error_text(error)
                event.retry_count += spends_retry(error)
                event.scheduled_at = now + timedelta(seconds=delay)
                event_retried.send_robust(sender=OutboxEvent, event=event, error=error, delay=delay)
        for row, error in verdicts.dead_letter:
            for event in self._known([row]):
                event.status, event.last_error = OutboxEventStatus.FAILED, error_text(error)
                event.ended_at = now
                event_failed.send_robust(sender=OutboxEvent, event=event, error=error)
        self._events = {}

    def _known(self, rows: Iterable[PendingRow]) -> list[OutboxEvent]:
        return [self._events[row.id] for row in rows if row.id in self._events]


def log_delivery(report: Report, alias: str, lease_id: int) -> None:
    """Log one line for a delivery: figures, and nothing of a payload."""
    logger.debug(
        "Backend %r: %d published, %d retrying, %d dead-lettered, %d blocked by their keys, "
        "%d expired.",
        alias,
        report.published,
        report.retried,
        report.failed,
        report.held,
        report.expired,
        extra={
            "backend": alias,
            "relay": lease_id,
            "published": report.published,
            "retried": report.retried,
            "failed": report.failed,
            "held": report.held,
            "expired": report.expired,
        },
    )


def _heard(signal: Signal) -> bool:
    return signal.has_listeners(OutboxEvent)
