"""Past minutes as series for the plots, as JSON."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from django.db.models import Case, F, IntegerField, Max, Q, Sum, Value, When
from django.db.models.functions import Mod
from django.utils import timezone

from django_broadcaster.models import OutboxSample
from django_broadcaster.store import minute_of

STEPS: Mapping[int, int] = {1: 1, 6: 2, 24: 5, 168: 30}
"""Selectable ranges in hours, each with the minutes of one point of the plot."""


def history(using: str, aliases: Collection[str], hours: int) -> dict[str, Any]:
    """Return the series of each backend; a minute without a report is None."""
    step = STEPS[hours]
    now = minute_of(timezone.now())
    start = now - hours * 60
    start -= start % step
    slots = list(range(start, now + 1, step))
    empty = dict.fromkeys(("published", "retried", "failed", "p50", "p99"))
    empty |= dict.fromkeys(("backlog", "oldest_age", "circuit_open", "paused"))
    found = {
        (row["backend"], row["slot"]): _point(row, min(step, now - row["slot"]))
        for row in _rows(using, aliases, start, step, now)
    }
    return {
        "times": [60 * slot for slot in slots],
        "series": {
            alias: {
                name: [found.get((alias, slot), empty)[name] for slot in slots] for name in empty
            }
            for alias in aliases
        },
    }


def _rows(using: str, aliases: Collection[str], start: int, step: int, now: int) -> Any:
    rows = OutboxSample.objects.using(using).filter(backend__in=aliases, minute__gte=start)
    rows = rows.annotate(slot=F("minute") - Mod("minute", Value(step), output_field=IntegerField()))
    flags = {f"{name}_max": Max(_as_number(name)) for name in ("circuit_open", "paused")}
    return rows.values("backend", "slot").annotate(
        **{
            # The current minute is incomplete, so it has no rate.
            f"{name}_sum": Sum(name, filter=Q(minute__lt=now), default=0)
            for name in ("published", "retried", "failed")
        },
        **{f"{name}_sum": Sum(name) for name in ("timed", "medians")},
        **{f"{name}_max": Max(name) for name in ("p99", "backlog", "oldest_age")},
        **flags,
    )


def _as_number(flag: str) -> Case:
    """Return 1 for a flag that is set, else 0: PostgreSQL has no maximum of booleans."""
    return Case(When(**{flag: True}, then=1), default=0, output_field=IntegerField())


def _point(row: Mapping[str, Any], minutes: int) -> dict[str, Any]:
    """Return a row in the units of the plots: per second over `minutes` whole minutes, seconds."""
    point: dict[str, Any] = {
        name: round(int(row[f"{name}_sum"]) / (60 * minutes), 3) if minutes else None
        for name in ("published", "retried", "failed")
    }
    timed = int(row["timed_sum"])
    point["p50"] = round(int(row["medians_sum"]) / timed / 1000, 4) if timed else None
    point["p99"] = row["p99_max"] / 1000 if timed else None
    point["backlog"] = row["backlog_max"]
    oldest = row["oldest_age_max"]
    point["oldest_age"] = None if oldest is None else oldest / 1000
    point["circuit_open"], point["paused"] = row["circuit_open_max"], row["paused_max"]
    return point
