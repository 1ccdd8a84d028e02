"""Delivery in a test: every event that is due, and an error for each that failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.db import router
from django.dispatch import Signal
from django.utils import timezone

from django_broadcaster.relay.inline import deliver_pending
from django_broadcaster.signals import (
    batch_settled,
    event_failed,
    event_published,
    event_retried,
)
from django_broadcaster.states import OutboxEventStatus
from django_broadcaster.store import django_clock

from .description import describe

if TYPE_CHECKING:
    from django_broadcaster.exceptions import DeliveryError
    from django_broadcaster.models import OutboxEvent

SHOWN = 10
"""The most undelivered events that an error lists."""


def drain(limit: int = 1000) -> list[OutboxEvent]:
    """Deliver every event that is due, here and now; return those delivered, in order.

    Events that handlers publish are delivered as well. Events are due by Django's clock, which
    `outbox_clock` moves.

    Args:
        limit: The most events to deliver, as handlers may publish without end.

    Raises:
        Exception: A handler or a backend failed; the exception is its own.
        ExceptionGroup: Several failed.
        AssertionError: Events are left: a backend is unavailable or paused, or `limit` is reached.
        WrongTransaction: A transaction other than a TestCase's is open.
    """
    run = _Run()
    with run.listening(), django_clock():
        while len(run.delivered) < limit:
            run.has_settled = False
            deliver_pending(limit - len(run.delivered), in_total=True)
            if run.failures or not run.has_settled:
                break
    run.raise_failures()
    _raise_for_what_is_left(run, limit)
    return run.delivered


class _Run:
    """The deliveries and failures that the relay's signals report for one call."""

    def __init__(self) -> None:
        self.delivered: list[OutboxEvent] = []
        self.failures: list[Exception] = []
        self.has_settled = False
        self.unavailable: Exception | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        receivers: list[tuple[Signal, Any]] = [
            (event_published, self._published),
            (event_retried, self._failed),
            (event_failed, self._failed),
            (batch_settled, self._settled),
        ]
        for signal, receiver in receivers:
            signal.connect(receiver, weak=False)
        try:
            yield
        finally:
            for signal, receiver in receivers:
                signal.disconnect(receiver)

    def _published(self, event: OutboxEvent, **_: Any) -> None:
        self.delivered.append(event)

    def _failed(self, event: OutboxEvent, error: DeliveryError, **_: Any) -> None:
        of_handlers = [failure for _, failure in error.handlers]
        for failure in of_handlers or [error.unforeseen or error]:
            failure.add_note(f"Raised by the delivery of {describe(event)}: {error}")
            self.failures.append(failure)

    def _settled(self, report: Any, **_: Any) -> None:
        self.has_settled = self.has_settled or bool(report.settled)
        self.unavailable = self.unavailable or report.unavailable

    def raise_failures(self) -> None:
        if len(self.failures) == 1:
            raise self.failures[0]
        if self.failures:
            raise ExceptionGroup(f"{len(self.failures)} failures", self.failures)


def _raise_for_what_is_left(run: _Run, limit: int) -> None:
    from django_broadcaster.models import OutboxEvent

    # A relay makes due events pending when it delivers their backend, which it may not have done.
    due = (OutboxEventStatus.PENDING, OutboxEventStatus.SCHEDULED, OutboxEventStatus.RETRY)
    waiting = OutboxEvent.objects.using(router.db_for_write(OutboxEvent)).filter(
        status__in=due, scheduled_at__lte=timezone.now()
    )
    left = "".join(f"\n  {describe(event)}" for event in waiting.order_by("id")[:SHOWN])
    if not left:
        return
    if len(run.delivered) >= limit:
        why = f"the limit of {limit} events is reached; handlers may publish without end"
    else:
        why = str(
            run.unavailable
            or "their backend is paused or unavailable (see the log), or a relay is running"
        )
    raise AssertionError(f"Events are left: {why}.{left}") from run.unavailable
