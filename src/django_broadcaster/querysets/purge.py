"""The way out of the outbox and the inbox: old rows go, a bounded number at a time."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db import models

from django_broadcaster.states import OutboxEventStatus

from .events import OutboxEventQuerySet

if TYPE_CHECKING:
    from django_broadcaster.models import InboxEvent


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


def purge_inbox(entries: models.QuerySet[InboxEvent], before: datetime, limit: int) -> int:
    """Delete up to `limit` of the first inbox entries, as far as they are from `before`."""
    first = entries.order_by("id").values_list("id", "processed_at")[:limit]
    old = [row_id for row_id, processed_at in first if processed_at < before]
    return _delete(entries.filter(id__in=old)) if old else 0


def _delete(rows: models.QuerySet[Any]) -> int:
    """Delete in one statement; Django's own `delete` would first read the rows for cascades."""
    return rows._raw_delete(rows.db)
