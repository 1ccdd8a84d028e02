"""The way out of the outbox and the inbox: old rows go, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connections, models

from django_broadcaster.states import FINAL, OutboxEventStatus

from .events import OutboxEventQuerySet

_S = OutboxEventStatus


class _Row(NamedTuple):
    """What tells how old an event is."""

    id: int
    publisher_backend: str
    status: str
    published_at: datetime | None
    ended_at: datetime | None
    scheduled_at: datetime
    created_at: datetime

    @property
    def since(self) -> datetime:
        """Since when nobody has to deliver it; one changed by hand may not say."""
        if self.status == _S.PUBLISHED:
            return self.published_at or self.scheduled_at
        return self.ended_at or self.scheduled_at


def find_delivered(
    events: OutboxEventQuerySet,
    backend: str,
    expiries: Mapping[str, datetime],
    now: datetime,
    start: int,
    limit: int,
) -> tuple[list[int], int | None]:
    """Find old published and cancelled events of a backend among the next `limit` behind `start`.

    `expiries` has one or both of these statuses, with the moment before which an event is old.
    Returns their ids, and the id to go on from, or None where hardly anything behind can be old
    enough: the rows stand in the order in which they were published, more or less, so it reads
    them in that order and stops where they are young instead of keeping an index by age. Single
    young ones among the old, which were scheduled or replayed, are passed by. Rows of other
    backends are read too, so that no call reads more than `limit`; they tell as well where all that
    is behind was written too late to be old, unless by a clock that is ahead of `now`.
    """
    rows = _read(events.filter(id__gt=start).order_by("id"), limit)
    own = [row for row in rows if row.publisher_backend == backend]
    # Where published events stay for ever, cancelled ones tell where the young begin.
    telling = _S.PUBLISHED if _S.PUBLISHED in expiries else _S.CANCELLED
    old = _old(own, expiries)
    settled = [row.id for row in own if row.status == telling]
    has_young = not set(settled) <= set(old)
    too_late = all(max(expiries.values()) <= row.created_at <= now for row in rows)
    if len(rows) < limit or too_late or (has_young and not old):
        return old, None
    return old, old[-1] if has_young else rows[-1].id


def find_dead_letters(
    events: OutboxEventQuerySet, backend: str, before: datetime, start: int, limit: int
) -> tuple[list[int], int | None]:
    """Find old dead letters of a backend, as `find_delivered` does, along their own index."""
    dead = events.filter(status=_S.FAILED, publisher_backend=backend, id__gt=start)
    rows = _read(dead.order_by("publisher_backend", "id"), limit)
    old = _old(rows, {_S.FAILED: before})
    return old, rows[-1].id if len(rows) == limit else None


def _read(events: OutboxEventQuerySet, limit: int) -> list[_Row]:
    return [_Row._make(row) for row in events.values_list(*_Row._fields)[:limit]]


def _old(rows: Sequence[_Row], expiries: Mapping[str, datetime]) -> list[int]:
    return [
        row.id
        for row in rows
        for status, before in expiries.items()
        if row.status == status and row.since < before
    ]


def lock_final(events: OutboxEventQuerySet, ids: Collection[int]) -> list[int]:
    """Return those of the ids whose events nobody has to deliver, locked to be deleted.

    What somebody else is at is left out instead of waited for.
    """
    skips = connections[events.db].features.has_select_for_update_skip_locked
    rows = events.filter(id__in=ids, status__in=FINAL).select_for_update(skip_locked=bool(skips))
    return list(rows.order_by("id").values_list("id", flat=True))


def delete_events(events: OutboxEventQuerySet, ids: Collection[int]) -> int:
    """Delete these events in one statement; return how many."""
    return _delete(events.filter(id__in=ids)) if ids else 0


def purge_entries(
    entries: models.QuerySet[Any], column: str, before: datetime | int, limit: int
) -> int:
    """Delete up to `limit` of the first entries, as far as their `column` is from `before`.

    For tables that are written in the order of time, and never changed.
    """
    first = entries.order_by("id").values_list("id", column)[:limit]
    old = [row_id for row_id, moment in first if moment < before]
    return _delete(entries.filter(id__in=old)) if old else 0


def _delete(rows: models.QuerySet[Any]) -> int:
    """Delete in one statement; Django's own `delete` would first read the rows for cascades."""
    return rows._raw_delete(rows.db)
