"""How a backend is doing, in a few statements that stay cheap however large the outbox is.

Counts come from the partial indexes and stop at `EXACT` rows: above that only "more" is known.
What has been delivered is not counted at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connections
from django.utils import timezone

from django_broadcaster.conf import conf

from .events import stored_moment
from .tables import BACKENDS, EVENTS, FREE_PARTITIONS, RELAYS

EXACT = 100_000
"""Rows that are looked at to count those of a state, or of two that share an index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """One backend now. `oldest_due` is since when the first event that could go waits.

    `blocked` counts events behind one in retry, `failed` the dead letters. Of the states in
    `at_least` there may be more. `relays` hold a lease, `free_partitions` belong to none of them.
    """

    backend: str
    pending: int
    scheduled: int
    retry: int
    blocked: int
    failed: int
    at_least: frozenset[str] = frozenset()
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
        return {**asdict(self), "at_least": sorted(self.at_least), "lag": round(self.lag, 3)}


def overviews(
    using: str, backends: Collection[str], *, exact: int | None = None
) -> Iterator[Overview]:
    """Yield the overview of each backend, whose counts stop at `exact`, else at `EXACT`."""
    for alias in backends:
        yield _overview(using, alias, exact or EXACT)


class _Scan(NamedTuple):
    """A walk along one index that tells how many rows are in some states.

    It goes on in the order of the index and ends at a bound, whatever it finds. A condition on one
    state alone would have no end where the index holds others, too, nor where PostgreSQL believes
    that the table itself gives as many rows as are wanted soon enough.
    """

    name: str
    condition: str
    order: str
    statuses: tuple[str, ...]


_SCANS = (
    _Scan("broadcaster_pending", "status = 'pending'", "id", ("pending",)),
    _Scan(
        "broadcaster_due", "status IN ('scheduled', 'retry')", "scheduled_at, id", ("scheduled",)
    ),
    _Scan(
        "broadcaster_waiting",
        "status IN ('retry', 'blocked')",
        "partition_key, id",
        ("retry", "blocked"),
    ),
    _Scan("broadcaster_failed", "status = 'failed'", "id", ("failed",)),
)
_MYSQL_SCANS = tuple(  # there the state comes first in each index
    _Scan(name, f"status = '{status}'", order, (status,))
    for name, _, order, statuses in _SCANS
    for status in statuses
)
_HINTS = {"postgresql": "", "sqlite": " INDEXED BY {}", "mysql": " FORCE INDEX ({})"}


def _overview(using: str, backend: str, exact: int) -> Overview:
    connection = connections[using]
    now = connection.ops.adapt_datetimefield_value(timezone.now())
    scans = _MYSQL_SCANS if connection.vendor == "mysql" else _SCANS
    hint = _HINTS[connection.vendor]
    pending = hint.format("broadcaster_pending")
    sql = (
        f"SELECT (SELECT scheduled_at FROM {EVENTS}{pending} WHERE status = 'pending' "
        "AND publisher_backend >= %s AND publisher_backend <= %s "
        "ORDER BY publisher_backend, id LIMIT 1), "
        f"(SELECT MIN(scheduled_at) FROM {EVENTS} WHERE publisher_backend = %s "
        "AND status IN ('scheduled', 'retry') AND scheduled_at <= %s), "
        f"(SELECT COUNT(*) FROM {RELAYS} WHERE backend = %s), "
        f"({FREE_PARTITIONS}), "
        f"(SELECT paused_at FROM {BACKENDS} WHERE backend = %s), "
        f"(SELECT paused_by FROM {BACKENDS} WHERE backend = %s), "
        f"{', '.join(f'{scan.name}_{scan.statuses[0]}.*' for scan in scans)} "
        f"FROM {' CROSS JOIN '.join(_counting(scan, hint) for scan in scans)}"
    )
    params: list[Any] = [*[backend] * 3, now, backend, backend, conf.PARTITIONS, backend, backend]
    params += [value for _ in scans for value in (backend, backend, exact)]
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        row = cursor.fetchone()
    counts, at_least = _read_counts(scans, row[6:], exact)
    due = [moment for value in row[:2] if (moment := stored_moment(value, using))]
    return Overview(
        backend=backend,
        **counts,
        at_least=at_least,
        oldest_due=min(due, default=None),
        relays=row[2],
        free_partitions=row[3],
        paused_at=stored_moment(row[4], using),
        paused_by=row[5] or "",
    )


def _counting(scan: _Scan, hint: str) -> str:
    """Return a table of one row: how many rows the scan went over, and how many are in each state.

    The condition on the backend is a range, so that the primary key can't give the order, which
    PostgreSQL else may take it for.
    """
    counts = "".join(
        f", COALESCE(SUM(CASE WHEN status = '{status}' THEN 1 ELSE 0 END), 0) AS {status}_rows"
        for status in scan.statuses
    )
    return (
        f"(SELECT COUNT(*) AS went_over{counts} FROM (SELECT status FROM "
        f"{EVENTS}{hint.format(scan.name)} WHERE {scan.condition} "
        "AND publisher_backend >= %s AND publisher_backend <= %s "
        f"ORDER BY publisher_backend, {scan.order} LIMIT %s) AS walk) "
        f"AS {scan.name}_{scan.statuses[0]}"
    )


def _read_counts(
    scans: Sequence[_Scan], values: Sequence[Any], exact: int
) -> tuple[dict[str, int], frozenset[str]]:
    """Return the counts by state, and the states of which there may be more."""
    counts: dict[str, int] = {}
    at_least: set[str] = set()
    rest = iter(values)
    for scan in scans:
        if int(next(rest)) >= exact:
            at_least.update(scan.statuses)
        counts |= {status: int(next(rest)) for status in scan.statuses}
    return counts, frozenset(at_least)
