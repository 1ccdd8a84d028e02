"""Counts of the events that an operation queued for delivery: delivered, dead or waiting."""

from __future__ import annotations

import time
from collections import Counter
from typing import NamedTuple

from django.db.models import Count

from django_broadcaster.models import OutboxOperation
from django_broadcaster.models.managers import OutboxEventQuerySet
from django_broadcaster.states import OutboxEventStatus

from .chunks import Window


class OperationResult(NamedTuple):
    """Numbers of events; `is_complete` is False if counting all would have taken too long."""

    delivered: int
    failed: int
    waiting: int
    is_complete: bool


def result_of(
    events: OutboxEventQuerySet, operation: OutboxOperation, *, seconds: float = 0.3
) -> OperationResult:
    """Count the events of an operation by what came of them, within about `seconds`."""
    changed = events.filter(operation=operation.pk)
    found, window, end = Counter[str](), Window(), operation.start
    deadline = time.monotonic() + seconds
    while end < operation.position and time.monotonic() < deadline:
        began, start = time.monotonic(), end
        end = min(operation.position, start + window.ids)
        part = changed.filter(id__gt=start, id__lte=end).order_by().values_list("status")
        found.update(dict(part.annotate(Count("id"))))
        window.took(time.monotonic() - began)
    delivered = found.pop(OutboxEventStatus.PUBLISHED, 0)
    failed = found.pop(OutboxEventStatus.FAILED, 0)
    found.pop(OutboxEventStatus.CANCELLED, 0)
    return OperationResult(delivered, failed, found.total(), end >= operation.position)
