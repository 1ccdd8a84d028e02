"""How a backend is doing, in a few statements that stay cheap however large the outbox is.

Counts come from the partial indexes and stop at `EXACT`: above that only "more" is known. What has
been delivered is not counted at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from django.db import connections
from django.utils import timezone

from .events import stored_moment
from .tables import BACKENDS, EVENTS, PARTITIONS, RELAYS

EXACT = 100_000
"""Rows of one status that are counted; a higher count is reported as this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """One backend now. `oldest_due` is since when the first event that could go waits.

    `waiting` counts events behind one in retry (blocked), `failed` the dead letters. A count of
    `EXACT` means so many or more. `relays` hold a lease, `free_partitions` belong to none of them.
    """

    backend: str
    pending: int
    scheduled: int
    retry: int
    blocked: int
    failed: int
    oldest_due: datetime | None
    relays: int
    free_partitions: int
    paused_at: datetime | None
    paused_by: str

    @property
    def lag(self) -> float:
        """Seconds that the first event has been due; 0 when nothing is."""
        if self.oldest_due is None:
            return 0.0
        return max(0.0, (timezone.now() - self.oldest_due).total_seconds())

    @property
    def is_paused(self) -> bool:
        """Whether an operator stopped the delivery."""
        return self.paused_at is not None

    def as_dict(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {**asdict(self), "lag": round(self.lag, 3)}


def overviews(using: str, backends: Collection[str], *, exact: int = EXACT) -> Iterator[Overview]:
    """Yield the overview of each backend, whose counts stop at `exact`."""
    for alias in backends:
        yield _overview(using, alias, exact)


def _overview(using: str, backend: str, exact: int) -> Overview:
    connection = connections[using]
    now = connection.ops.adapt_datetimefield_value(timezone.now())
    statuses = ("pending", "scheduled", "retry", "blocked", "failed")
    counts = ", ".join(_count(status) for status in statuses)
    sql = (
        f"SELECT {counts}, "
        f"(SELECT scheduled_at FROM {EVENTS} WHERE status = 'pending' AND publisher_backend = %s "
        "ORDER BY publisher_backend, id LIMIT 1), "
        f"(SELECT MIN(scheduled_at) FROM {EVENTS} WHERE publisher_backend = %s "
        "AND status IN ('scheduled', 'retry') AND scheduled_at <= %s), "
        f"(SELECT COUNT(*) FROM {RELAYS} WHERE backend = %s), "
        f"(SELECT COUNT(*) FROM {PARTITIONS} WHERE backend = %s AND relay_id IS NULL), "
        f"(SELECT paused_at FROM {BACKENDS} WHERE backend = %s), "
        f"(SELECT paused_by FROM {BACKENDS} WHERE backend = %s)"
    )
    of_counts = [value for _ in statuses for value in (backend, exact)]
    params = [*of_counts, backend, backend, now, backend, backend, backend, backend]
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        row = cursor.fetchone()
    due = [moment for value in row[5:7] if (moment := stored_moment(value, using))]
    return Overview(
        backend=backend,
        **dict(zip(statuses, row[:5], strict=True)),
        oldest_due=min(due, default=None),
        relays=row[7],
        free_partitions=row[8],
        paused_at=stored_moment(row[9], using),
        paused_by=row[10] or "",
    )


def _count(status: str) -> str:
    return (
        f"(SELECT COUNT(*) FROM (SELECT 1 AS one FROM {EVENTS} WHERE status = '{status}' "
        "AND publisher_backend = %s LIMIT %s) counted)"
    )
