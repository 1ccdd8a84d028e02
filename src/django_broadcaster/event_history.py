"""The history of an event: its row, its failed attempts, and what persons did with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from .events.extensions import TRACEPARENT
from .models import OutboxAttempt, OutboxEvent, OutboxMove
from .models.managers import aware
from .states import OutboxEventStatus

MOST_ATTEMPTS = 200
"""Maximum of failed attempts, and of moves, in a history, the latest ones."""


@dataclass(frozen=True, slots=True)
class Step:
    """An entry in the history of an event; `more` is an error or a remark.

    `waits_for` is the id of the event for which this one waits, `operation` that of the operation
    which made the step.
    """

    at: datetime
    what: str
    kind: str
    who: str = ""
    more: str = ""
    waits_for: int | None = None
    operation: int | None = None


class Entry(NamedTuple):
    """A step, and the seconds since the one before; None for the first."""

    step: Step
    gap: float | None


def history_of(event: OutboxEvent) -> Iterator[Entry]:
    """Yield the history of an event, the oldest step first."""
    before = None
    for step in sorted(steps_of(event), key=lambda step: aware(step.at)):
        at = aware(step.at)
        yield Entry(step, None if before is None else (at - before).total_seconds())
        before = at


def steps_of(event: OutboxEvent) -> Iterator[Step]:
    """Yield the steps of an event; of those at one time, the earlier first."""
    using = event._state.db
    trace = (event.extensions or {}).get(TRACEPARENT)
    yield Step(event.created_at, _("Created"), "created", more=f"traceparent {trace}" * bool(trace))
    rows = OutboxAttempt.objects.using(using).filter(row=event.pk).order_by("-id")
    attempts = list(rows[:MOST_ATTEMPTS])
    for attempt in attempts:
        what = _("Attempt %(number)d failed") % {"number": attempt.number}
        yield Step(attempt.attempted_at, what, "failed", attempt.relay, attempt.error)
    moves = OutboxMove.objects.using(using).filter(row=event.pk).order_by("-id")
    for move in reversed(moves[:MOST_ATTEMPTS]):
        if move.ended_at is not None:
            yield from _end(move.status, move.ended_at, attempts)
        yield _move(move)
    yield from _now(event, attempts)


def _now(event: OutboxEvent, attempts: Iterable[OutboxAttempt]) -> Iterator[Step]:
    """Yield the end of an event, or that for which it waits."""
    status = event.status
    if (ended_at := event.published_at or event.ended_at) is not None:
        yield from _end(status, ended_at, attempts)
    elif status in (OutboxEventStatus.SCHEDULED, OutboxEventStatus.RETRY):
        yield Step(event.scheduled_at, _("Next attempt is due"), "due")
    elif status == OutboxEventStatus.BLOCKED and (blocker := _blocker(event)) is not None:
        what = _("Waits for event %(id)d of the same key") % {"id": blocker}
        yield Step(event.updated_at, what, "due", waits_for=blocker)


def _end(status: str, at: datetime, attempts: Iterable[OutboxAttempt]) -> Iterator[Step]:
    """Yield the end of an event in a status. A person's move has the cancellation already."""
    if status == OutboxEventStatus.PUBLISHED:
        yield Step(at, _("Delivered: the broker acknowledged it"), "published")
    elif status == OutboxEventStatus.FAILED:
        last = max((each for each in attempts if each.attempted_at <= at), key=_id, default=None)
        text = _("Given up: no more attempts")
        if last is not None:
            text = ngettext(
                "Given up after %(count)d attempt", "Given up after %(count)d attempts", last.number
            ) % {"count": last.number}
        yield Step(at, text, "failed")


def _id(attempt: OutboxAttempt) -> int:
    return attempt.pk


def _move(move: OutboxMove) -> Step:
    """Return what a person did with the event."""
    texts = {
        "cancel": _("Cancelled (was %(status)s)"),
        "retry": _("Retried now (was %(status)s)"),
        "replay": _("Replayed (was %(status)s)"),
    }
    status = OutboxEventStatus(move.status).label
    what = texts.get(move.kind, move.kind) % {"status": status}
    if move.operation is not None:
        what += ", " + _("operation %(id)d") % {"id": move.operation}
    return Step(move.moved_at, what, "operator", move.moved_by, operation=move.operation)


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
