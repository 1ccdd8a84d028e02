"""Purges of the outbox and the inbox: find and delete old rows, a limited number at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from django.db import connections, models

from django_broadcaster.models.managers import OutboxEventQuerySet
from django_broadcaster.states import FINAL, OutboxEventStatus

from .sql import EVENTS, change, select

_S = OutboxEventStatus


def find_delivered(
    events: OutboxEventQuerySet,
    alias: str,
    expiries: Mapping[str, datetime],
    now: datetime,
    start: int,
    limit: int,
) -> tuple[list[int], int | None]:
    """Find old delivered and cancelled events of a backend among the next `limit` rows.

    Rows have about the order of their ages. The search reads them in that order and stops at young
    ones, so it needs no index by age. It skips single young rows among old ones, which were
    scheduled or replayed. It also reads rows of other backends, so that no call reads more than
    `limit` rows. If all rows were created too late to be old, the search ends, unless the clock
    of their publisher is ahead of `now`.

    Args:
        events: All events.
        backend: Alias of the backend.
        expiries: One or both of these statuses, with the time before which an event is old.
        now: The present time.
        start: The id after which the search begins.
        limit: Maximum of rows to read.

    Returns:
        The ids of old events, and the id to continue from, or None if few later rows can be old.
    """
    # If delivered events are never purged, the ages of cancelled ones end the search.
    decisive = _S.PUBLISHED if _S.PUBLISHED in expiries else _S.CANCELLED
    chosen = {status: expiries[status] for status in _SINCE if status in expiries}
    latest = max(chosen.values())
    rows = _classified(
        events.filter(id__gt=start).order_by("id"),
        is_old=models.Q(publisher_backend=alias) & _is_old(chosen),
        is_young=models.Q(publisher_backend=alias) & _is_young(decisive, expiries[decisive]),
        is_late=models.Q(created_at__gte=latest, created_at__lte=now),
    )[:limit]
    found = list(rows)
    old = [row_id for row_id, is_old, _, _ in found if is_old]
    has_young = any(is_young for _, _, is_young, _ in found)
    too_late = all(is_late for *_, is_late in found)
    if len(found) < limit or too_late or (has_young and not old):
        return old, None
    return old, old[-1] if has_young else found[-1][0]


def find_dead_letters(
    events: OutboxEventQuerySet, alias: str, before: datetime, start: int, limit: int
) -> tuple[list[int], int | None]:
    """Find old dead letters of a backend by their index; return as `find_delivered` does."""
    dead = events.filter(status=_S.FAILED, publisher_backend=alias, id__gt=start)
    ordered = dead.order_by("publisher_backend", "id")
    found = list(_classified(ordered, is_old=_is_old({_S.FAILED: before}))[:limit])
    end = found[-1][0] if len(found) == limit else None
    return [row_id for row_id, is_old in found if is_old], end


_SINCE = {_S.PUBLISHED: "published_at", _S.CANCELLED: "ended_at", _S.FAILED: "ended_at"}
"""The column with the time of an event's end, by status; manually changed rows may lack it."""


def _is_old(expiries: Mapping[OutboxEventStatus, datetime]) -> models.Q:
    """Return the condition that an event is old: by its end, or without one by `scheduled_at`.

    A cancelled event is not old before its time: a periodic event would be written again.
    """
    old = models.Q()
    for status, before in expiries.items():
        end = _SINCE[status]
        due = models.Q(scheduled_at__lt=before)
        ended = models.Q(**{f"{end}__lt": before})
        if status == _S.CANCELLED:
            ended &= due
        old |= models.Q(status=status) & (ended | models.Q(**{f"{end}__isnull": True}) & due)
    return old


def _is_young(status: OutboxEventStatus, before: datetime) -> models.Q:
    """Return the condition that an event of a status is young by its end, as in `_is_old`."""
    end = _SINCE[status]
    unknown = models.Q(**{f"{end}__isnull": True}, scheduled_at__gte=before)
    return models.Q(status=status) & (models.Q(**{f"{end}__gte": before}) | unknown)


def _classified(events: OutboxEventQuerySet, **conditions: models.Q) -> models.QuerySet[Any, Any]:
    """Return the ids of events, each with the values of the conditions.

    The database evaluates them: Python would take longer to read a thousand moments than the
    database takes to delete the rows.
    """
    classified = {
        name: models.Case(
            models.When(condition, then=1), default=0, output_field=models.SmallIntegerField()
        )
        for name, condition in conditions.items()
    }
    return events.annotate(**classified).values_list("id", *classified)


def lock_final(events: OutboxEventQuerySet, ids: Collection[int]) -> list[int]:
    """Lock the events that have a final status for deletion; return their ids.

    Rows that another transaction has locked are skipped.
    """
    using = events.db
    if connections[using].vendor == "postgresql":
        # A list of parameters instead of an array would take most of the time of a purge.
        final = ", ".join(f"'{status}'" for status in FINAL)
        sql = f"SELECT id FROM {EVENTS} WHERE id = ANY(%s) AND status IN ({final}) "
        locked = select(using, f"{sql}ORDER BY id FOR UPDATE SKIP LOCKED", list(ids))
        return [row_id for (row_id,) in locked]
    skips = connections[using].features.has_select_for_update_skip_locked
    rows = events.filter(id__in=ids, status__in=FINAL).select_for_update(skip_locked=bool(skips))
    return list(rows.order_by("id").values_list("id", flat=True))


def delete_events(events: OutboxEventQuerySet, ids: Collection[int]) -> int:
    """Delete events by one statement; return how many."""
    if not ids:
        return 0
    if connections[events.db].vendor == "postgresql":
        return change(events.db, f"DELETE FROM {EVENTS} WHERE id = ANY(%s)", list(ids))
    return _delete(events.filter(id__in=ids))


def purge_entries(
    entries: models.QuerySet[Any], column: str, before: datetime | int, limit: int
) -> int:
    """Delete those of the first `limit` entries whose `column` is less than `before`.

    The table must be written in the order of time, and its rows never change.
    """
    first = entries.order_by("id").values_list("id", column)[:limit]
    old = [row_id for row_id, moment in first if moment < before]
    return _delete(entries.filter(id__in=old)) if old else 0


def _delete(rows: models.QuerySet[Any]) -> int:
    """Delete rows by one statement; Django's `delete` would read them first, for cascades."""
    return rows._raw_delete(rows.db)
