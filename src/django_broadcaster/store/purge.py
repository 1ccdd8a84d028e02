"""The way out of the outbox and the inbox: old rows go, a bounded number at a time."""

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
    # Where published events stay for ever, cancelled ones tell where the young begin.
    telling = _S.PUBLISHED if _S.PUBLISHED in expiries else _S.CANCELLED
    chosen = {status: expiries[status] for status in _SINCE if status in expiries}
    latest = max(chosen.values())
    rows = _judged(
        events.filter(id__gt=start).order_by("id"),
        is_old=models.Q(publisher_backend=backend) & _is_old(chosen),
        tells=models.Q(publisher_backend=backend, status=telling),
        is_late=models.Q(created_at__gte=latest, created_at__lte=now),
    )[:limit]
    found = list(rows)
    old = [row_id for row_id, is_old, _, _ in found if is_old]
    has_young = any(tells and not is_old for _, is_old, tells, _ in found)
    too_late = all(is_late for *_, is_late in found)
    if len(found) < limit or too_late or (has_young and not old):
        return old, None
    return old, old[-1] if has_young else found[-1][0]


def find_dead_letters(
    events: OutboxEventQuerySet, backend: str, before: datetime, start: int, limit: int
) -> tuple[list[int], int | None]:
    """Find old dead letters of a backend, as `find_delivered` does, along their own index."""
    dead = events.filter(status=_S.FAILED, publisher_backend=backend, id__gt=start)
    ordered = dead.order_by("publisher_backend", "id")
    found = list(_judged(ordered, is_old=_is_old({_S.FAILED: before}))[:limit])
    end = found[-1][0] if len(found) == limit else None
    return [row_id for row_id, is_old in found if is_old], end


_SINCE = {_S.PUBLISHED: "published_at", _S.CANCELLED: "ended_at", _S.FAILED: "ended_at"}
"""Since when nobody has to deliver an event, by status; one changed by hand may not say."""


def _is_old(expiries: Mapping[OutboxEventStatus, datetime]) -> models.Q:
    """Return the condition that an event's time is over; due since when, where it says no more."""
    old = models.Q()
    for status, before in expiries.items():
        end = _SINCE[status]
        unknown = models.Q(**{f"{end}__isnull": True}, scheduled_at__lt=before)
        old |= models.Q(status=status) & (models.Q(**{f"{end}__lt": before}) | unknown)
    return old


def _judged(events: OutboxEventQuerySet, **conditions: models.Q) -> models.QuerySet[Any, Any]:
    """Return the ids of events, each with what is true of it.

    The database judges: to read a thousand moments takes Python longer than to delete the rows.
    """
    judged = {
        name: models.Case(
            models.When(condition, then=1), default=0, output_field=models.SmallIntegerField()
        )
        for name, condition in conditions.items()
    }
    return events.annotate(**judged).values_list("id", *judged)


def lock_final(events: OutboxEventQuerySet, ids: Collection[int]) -> list[int]:
    """Return those of the ids whose events nobody has to deliver, locked to be deleted.

    What somebody else is at is left out instead of waited for.
    """
    using = events.db
    if connections[using].vendor == "postgresql":
        # One array: to write a list of parameters would take most of the time of a purge.
        final = ", ".join(f"'{status}'" for status in FINAL)
        sql = f"SELECT id FROM {EVENTS} WHERE id = ANY(%s) AND status IN ({final}) "
        locked = select(using, f"{sql}ORDER BY id FOR UPDATE SKIP LOCKED", list(ids))
        return [row_id for (row_id,) in locked]
    skips = connections[using].features.has_select_for_update_skip_locked
    rows = events.filter(id__in=ids, status__in=FINAL).select_for_update(skip_locked=bool(skips))
    return list(rows.order_by("id").values_list("id", flat=True))


def delete_events(events: OutboxEventQuerySet, ids: Collection[int]) -> int:
    """Delete these events in one statement; return how many."""
    if not ids:
        return 0
    if connections[events.db].vendor == "postgresql":
        return change(events.db, f"DELETE FROM {EVENTS} WHERE id = ANY(%s)", list(ids))
    return _delete(events.filter(id__in=ids))


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
