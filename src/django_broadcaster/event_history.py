"""The history of an event, from what is stored: its row, its failed attempts, its operation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from django.utils.translation import gettext as _

from .events.extensions import TRACEPARENT
from .models import OutboxAttempt, OutboxEvent, OutboxOperation
from .states import OutboxEventStatus

MOST_ATTEMPTS = 200
"""Maximum of failed attempts in a history, the latest ones."""


@dataclass(frozen=True, slots=True)
class Step:
    """An entry in the history of an event; `more` is an error or a remark.

    `waits_for` is the id of the event for which this one waits.
    """

    at: datetime
    what: str
    kind: str
    who: str = ""
    more: str = ""
    waits_for: int | None = None


def steps_of(event: OutboxEvent) -> Iterator[Step]:
    """Yield the steps of an event in no order."""
    using = event._state.db
    trace = (event.extensions or {}).get(TRACEPARENT)
    yield Step(event.created_at, _("Created"), "created", more=f"traceparent {trace}" * bool(trace))
    attempts = OutboxAttempt.objects.using(using).filter(row=event.pk).order_by("-id")
    for attempt in attempts[:MOST_ATTEMPTS]:
        what = _("Attempt %(number)d failed") % {"number": attempt.number}
        yield Step(attempt.attempted_at, what, "failed", attempt.relay, attempt.error)
    yield from _operation(event)
    status = event.status
    if status == OutboxEventStatus.PUBLISHED and event.published_at is not None:
        yield Step(event.published_at, _("Delivered: the broker acknowledged it"), "published")
    elif status in (OutboxEventStatus.SCHEDULED, OutboxEventStatus.RETRY):
        yield Step(event.scheduled_at, _("Next attempt is due"), "due")
    elif status == OutboxEventStatus.FAILED and event.ended_at is not None:
        yield Step(event.ended_at, _("Dead letter: no more attempts"), "failed")
    elif status == OutboxEventStatus.CANCELLED and event.ended_at is not None:
        yield Step(event.ended_at, _("Cancelled"), "operator")
    elif status == OutboxEventStatus.BLOCKED and (blocker := _blocker(event)) is not None:
        what = _("Waits for event %(id)d of the same key") % {"id": blocker}
        yield Step(event.updated_at, what, "due", waits_for=blocker)


def _operation(event: OutboxEvent) -> Iterator[Step]:
    """Yield the last operation that changed the event, with the person who requested it."""
    operations = OutboxOperation.objects.using(event._state.db)
    operation = operations.filter(pk=event.operation).first() if event.operation else None
    if operation is not None:
        names = {"id": operation.pk, "kind": operation.get_kind_display()}
        what = _("Operation %(id)d: %(kind)s") % names
        yield Step(operation.requested_at, what, "operator", operation.requested_by)


def _blocker(event: OutboxEvent) -> int | None:
    """Return the id of the event in retry for which this one waits."""
    key = event.partition_key
    # Ranges, in the order of their index: PostgreSQL might read the primary key otherwise.
    heads = (
        OutboxEvent.objects.using(event._state.db)
        .filter(publisher_backend=event.publisher_backend)
        .filter(partition_key__gte=key, partition_key__lte=key, status=OutboxEventStatus.RETRY)
        .order_by("publisher_backend", "partition_key", "id")
    )
    return heads.values_list("pk", flat=True).first()
