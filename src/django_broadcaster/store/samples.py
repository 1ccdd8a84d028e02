"""Figures of a backend by minute, written by relays and read by the dashboard."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from django.db import models
from django.db.models.functions import Greatest

from django_broadcaster.models import OutboxSample
from django_broadcaster.models.managers import aware

Samples = models.QuerySet[OutboxSample]


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
