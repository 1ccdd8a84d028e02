"""The way out of the outbox and the inbox: old rows go, a bounded number at a time."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import models

from django_broadcaster.states import OutboxEventStatus

from .events import OutboxEventQuerySet


def purge_published(
    events: OutboxEventQuerySet, before: datetime, start: int, limit: int
) -> tuple[int, int | None]:
    """Delete events published `before` among the next `limit` behind id `start`.

    Returns how many went and the id to go on from, or None where hardly anything behind can be
    old enough: the rows stand in the order in which they were published, more or less, so it reads
    them in that order and stops where they are young instead of keeping an index by age. Single
    young ones among the old, which were scheduled or replayed, are passed by.
    """
    rows = events.filter(id__gt=start).order_by("id").values_list("id", "status", "published_at")
    chunk = list(rows[:limit])
    published = [
        (row_id, at) for row_id, status, at in chunk if status == OutboxEventStatus.PUBLISHED
    ]
    old = [row_id for row_id, at in published if at is None or at < before]
    has_young = len(old) < len(published)
    if len(chunk) < limit or (has_young and not old):
        end = None
    else:
        end = old[-1] if has_young else chunk[-1][0]
    expired = events.filter(id__in=old, status=OutboxEventStatus.PUBLISHED)
    return _delete(expired) if old else 0, end


def purge_entries(entries: models.QuerySet[Any], column: str, before: datetime, limit: int) -> int:
    """Delete up to `limit` of the first entries, as far as their `column` is from `before`.

    For tables that are written in the order of time, and never changed.
    """
    first = entries.order_by("id").values_list("id", column)[:limit]
    old = [row_id for row_id, moment in first if moment < before]
    return _delete(entries.filter(id__in=old)) if old else 0


def _delete(rows: models.QuerySet[Any]) -> int:
    """Delete in one statement; Django's own `delete` would first read the rows for cascades."""
    return rows._raw_delete(rows.db)
