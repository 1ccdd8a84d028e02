"""Figures of a backend by minute, written by relays and read by the dashboard."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from django.db import models
from django.db.models.functions import Greatest
from django.utils import timezone

from django_broadcaster.models import OutboxSample
from django_broadcaster.models.managers import aware

Samples = models.QuerySet[OutboxSample]

HOUR = 60
"""Minutes in which dead letters are new."""


@dataclass(slots=True)
class Figures:
    """Figures that a relay adds to a minute, see `OutboxSample`. None is a missing measurement."""

    published: int = 0
    retried: int = 0
    failed: int = 0
    timed: int = 0
    waited: int = 0
    longest: int = 0
    backlog: int | None = None
    oldest_age: int | None = None
    circuit_open: bool = False

    def __bool__(self) -> bool:
        """Return True if there is a figure to add."""
        return self != Figures()


@dataclass(frozen=True, slots=True)
class Recent:
    """What relays did for a backend recently.

    `published` and `failures` are attempts of the last minutes, and `dead_letters` those of the
    last hour. `last` is the last whole minute, or the one before it: relays write a minute's
    figures some seconds later.
    """

    published: int = 0
    failures: int = 0
    dead_letters: int = 0
    last: OutboxSample | None = None

    @property
    def attempts(self) -> int:
        """The attempts of the last minutes."""
        return self.published + self.failures


def recent_minutes(using: str, aliases: Collection[str], minutes: int) -> dict[str, Recent]:
    """Return what happened in the last minutes, and the current one, by backend."""
    now = minute_of(timezone.now())
    rows = OutboxSample.objects.using(using).filter(
        models.Q(minute__gte=now - max(minutes, 2)) | models.Q(failed__gt=0),
        backend__in=aliases,
        minute__gte=now - HOUR,
    )
    found: defaultdict[str, list[OutboxSample]] = defaultdict(list)
    for row in rows.order_by("minute"):
        found[row.backend].append(row)
    return {backend: _recent(samples, now, minutes) for backend, samples in found.items()}


def _recent(samples: Sequence[OutboxSample], now: int, minutes: int) -> Recent:
    recent = [row for row in samples if row.minute >= now - minutes]
    whole = [row for row in samples if now - 2 <= row.minute < now]
    return Recent(
        published=sum(row.published for row in recent),
        failures=sum(row.retried + row.failed for row in recent),
        dead_letters=sum(row.failed for row in samples),
        last=whole[-1] if whole else None,
    )


def minute_of(moment: datetime) -> int:
    """Return the minutes since 1970 in UTC."""
    return int(aware(moment).timestamp()) // 60


def add_to_minute(samples: Samples, backend: str, minute: int, figures: Figures) -> None:
    """Add a relay's figures to a minute, whose row all relays of the backend share."""
    rows = samples.filter(backend=backend, minute=minute)
    changes = _changes(figures)
    if not rows.update(**changes):
        samples.bulk_create([samples.model(backend=backend, minute=minute)], ignore_conflicts=True)
        rows.update(**changes)


def _changes(figures: Figures) -> dict[str, Any]:
    values = asdict(figures)
    added = ("published", "retried", "failed", "timed", "waited")
    changes: dict[str, Any] = {name: models.F(name) + values[name] for name in added}
    changes["longest"] = Greatest("longest", models.Value(figures.longest))
    for name in ("backlog", "oldest_age"):  # the last measurement of the minute replaces others
        if values[name] is not None:
            changes[name] = values[name]
    if figures.circuit_open:
        changes["circuit_open"] = True
    return changes
