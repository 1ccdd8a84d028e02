"""Figures of a backend by minute, written by relays and read by the dashboard."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

from django.db import models
from django.db.models.functions import Greatest
from django.utils import timezone

from django_broadcaster.models import OutboxSample
from django_broadcaster.models.managers import aware

Samples = models.QuerySet[OutboxSample]

HOUR = 60
"""Minutes that are read."""


@dataclass(slots=True)
class Figures:
    """Figures that a relay adds to a minute, see `OutboxSample`. None is a missing measurement."""

    published: int = 0
    retried: int = 0
    failed: int = 0
    timed: int = 0
    medians: int = 0
    p99: int = 0
    backlog: int | None = None
    oldest_age: int | None = None
    circuit_open: bool = False
    paused: bool = False

    def __bool__(self) -> bool:
        """Return True if there is a figure to add."""
        return self != Figures()


class Minute(NamedTuple):
    """The figures of one minute."""

    minute: int
    published: int
    retried: int
    failed: int
    timed: int
    medians: int


@dataclass(frozen=True, slots=True)
class Recent:
    """The recent attempts of a backend.

    `published` and `failures` are attempts of the last minutes, and `dead_letters` those of the
    last hour. `failing_for` are the minutes since attempts failed without any delivery, an hour at
    most. `last` is the last whole minute, or the one before it: relays write a minute's figures
    some seconds later.
    """

    published: int = 0
    failures: int = 0
    dead_letters: int = 0
    failing_for: int = 0
    last: Minute | None = None

    @property
    def attempts(self) -> int:
        """The attempts of the last minutes."""
        return self.published + self.failures


def recent_minutes(using: str, aliases: Collection[str], minutes: int) -> dict[str, Recent]:
    """Return what happened in the last minutes, and in the current one, by backend."""
    now = minute_of(timezone.now())
    rows = OutboxSample.objects.using(using).filter(backend__in=aliases, minute__gte=now - HOUR)
    found: defaultdict[str, list[Minute]] = defaultdict(list)
    for backend, *figures in rows.order_by("minute").values_list("backend", *Minute._fields):
        found[backend].append(Minute(*figures))
    return {backend: _recent(hour, now, minutes) for backend, hour in found.items()}


def _recent(hour: Sequence[Minute], now: int, minutes: int) -> Recent:
    recent = [each for each in hour if each.minute >= now - minutes]
    whole = [each for each in hour if now - 2 <= each.minute < now]
    return Recent(
        published=sum(each.published for each in recent),
        failures=sum(each.retried + each.failed for each in recent),
        dead_letters=sum(each.failed for each in hour),
        failing_for=_failing_for(hour, now),
        last=whole[-1] if whole else None,
    )


def _failing_for(hour: Sequence[Minute], now: int) -> int:
    first = now
    for each in reversed(hour):
        if each.published:
            break
        if each.retried or each.failed:
            first = each.minute
    return now - first


def minute_of(moment: datetime) -> int:
    """Return the minutes since 1970 in UTC."""
    return int(aware(moment).timestamp()) // 60


def add_to_minute(samples: Samples, alias: str, minute: int, figures: Figures) -> None:
    """Add a relay's figures to a minute, whose row all relays of the backend share."""
    rows = samples.filter(backend=alias, minute=minute)
    changes = _changes(figures)
    if not rows.update(**changes):
        samples.bulk_create([samples.model(backend=alias, minute=minute)], ignore_conflicts=True)
        rows.update(**changes)


def _changes(figures: Figures) -> dict[str, Any]:
    values = asdict(figures)
    added = ("published", "retried", "failed", "timed", "medians")
    changes: dict[str, Any] = {name: models.F(name) + values[name] for name in added}
    changes["p99"] = Greatest("p99", models.Value(figures.p99))
    for name in ("backlog", "oldest_age"):  # the last measurement of the minute replaces others
        if values[name] is not None:
            changes[name] = values[name]
    for name in ("circuit_open", "paused"):  # once in the minute is enough
        if values[name]:
            changes[name] = True
    return changes
