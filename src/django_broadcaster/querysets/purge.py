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

    Returns how many went and the id to go on from, or None where nothing behind can be old
    enough: the rows stand in the order in which they were published, more or less, so it reads
    them in that order and stops at the first young one instead of keeping an index by age.
    """
    rows = events.filter(id__gt=start).order_by("id").values_list("id", "status", "published_at")
    old: list[int] = []
    count, end, reached_young = 0, start, False
    for row_id, status, published_at in rows[:limit]:
        count += 1
        if status == OutboxEventStatus.PUBLISHED:
            if published_at is not None and published_at >= before:
                reached_young = True
                break
            old.append(row_id)
        end = row_id
    more = not reached_young and count == limit
    expired = events.filter(id__in=old, status=OutboxEventStatus.PUBLISHED)
    return _delete(expired) if old else 0, end if more else None


def purge_inbox(entries: models.QuerySet[InboxEvent], before: datetime, limit: int) -> int:
    """Delete up to `limit` of the first inbox entries, as far as they are from `before`."""
    first = entries.order_by("id").values_list("id", "processed_at")[:limit]
    old = [row_id for row_id, processed_at in first if processed_at < before]
    return _delete(entries.filter(id__in=old)) if old else 0


def _delete(rows: models.QuerySet[Any]) -> int:
    """Delete in one statement; Django's own `delete` would first read the rows for cascades."""
    return rows._raw_delete(rows.db)
