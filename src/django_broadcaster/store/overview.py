"""How a backend is doing, in a few statements that stay cheap however large the outbox is.

Counts come from the partial indexes and stop at `EXACT` rows: above that only "more" is known.
What has been delivered is not counted at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from django.db import connections
from django.utils import timezone

from django_broadcaster.conf import conf
from django_broadcaster.models.managers import stored_moment

from .sql import ALIVE, BACKENDS, EVENTS, FREE_PARTITIONS, RELAYS

EXACT = 100_000
"""Rows that are looked at to count those of a state, or of two that share an index."""

FIRST = 2_000
"""Pending events among which the one is found that has been due for the longest.

It is mostly the first one. One that was scheduled, or is replayed, may stand before it.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """One backend now. `oldest_due` is since when the event waits that has been due the longest.

    `blocked` counts events behind one in retry, `failed` the dead letters. Of the states in
    `at_least` there may be more. `oldest_retry` is when the first event in retry was published to
    the outbox. `relays` hold a lease, `free_partitions` belong to none of them. `away_since` is
    since when the broker is away for one of them, and `away_because` its error.
    """

    backend: str
    pending: int
    scheduled: int
    retry: int
    blocked: int
    failed: int
    at_least: frozenset[str] = frozenset()
    oldest_due: datetime | None
    oldest_retry: datetime | None
    relays: int
    free_partitions: int
    away_since: datetime | None
    away_because: str
    paused_at: datetime | None
    paused_by: str

    @property
    def lag(self) -> float:
        """The most seconds that an event has been due; 0 when nothing is."""
        return _age(self.oldest_due)

    @property
    def retry_age(self) -> float:
        """Seconds since the first event in retry was published; 0 when none is."""
        return _age(self.oldest_retry)

    @property
    def undelivered(self) -> int:
        """How many events wait, or more where `at_least` says so."""
        return self.pending + self.scheduled + self.retry + self.blocked

    @property
    def is_paused(self) -> bool:
        """Whether an operator stopped the delivery."""
        return self.paused_at is not None

    def as_dict(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        ages = {"lag": round(self.lag, 3), "retry_age": round(self.retry_age, 3)}
        return {**asdict(self), "at_least": sorted(self.at_least), **ages}


def _age(moment: datetime | None) -> float:
    """Return the seconds since a moment; 0 for none."""
    return 0.0 if moment is None else max(0.0, (datetime.now(UTC) - moment).total_seconds())


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

    `finds_retry`: it looks for the first event in retry as well, among rows of which none is
    blocked: there may be any number behind another key.
    """

    name: str
    condition: str
    order: str
    statuses: tuple[str, ...]
    finds_retry: bool = False

    @property
    def table(self) -> str:
        """The name of its result."""
        return f"{self.name}_{self.statuses[0]}"

    @property
    def columns(self) -> str:
        """How many rows it went over, and how many are in each of the states."""
        return ", ".join(f"{self.table}.{name}" for name in ("went_over", *self.statuses))


_SCANS = (
    _Scan("broadcaster_pending", "status = 'pending'", "id", ("pending",)),
    _Scan(
        "broadcaster_due",
        "status IN ('scheduled', 'retry')",
        "scheduled_at, id",
        ("scheduled",),
        finds_retry=True,
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
    _Scan(scan.name, f"status = '{status}'", scan.order, (status,), finds_retry=status == "retry")
    for scan in _SCANS
    for status in scan.statuses
)
_HINTS = {"postgresql": "", "sqlite": " INDEXED BY {}", "mysql": " FORCE INDEX ({})"}


def _overview(using: str, backend: str, exact: int) -> Overview:
    connection = connections[using]
    now = connection.ops.adapt_datetimefield_value(timezone.now())
    scans = _MYSQL_SCANS if connection.vendor == "mysql" else _SCANS
    hint = _HINTS[connection.vendor]
    pending = hint.format("broadcaster_pending")
    living = f"FROM {RELAYS} WHERE backend = %s AND {ALIVE[connection.vendor]}"
    away = f"{living} AND circuit_open_since IS NOT NULL ORDER BY circuit_open_since LIMIT 1"
    sql = (
        "SELECT (SELECT MIN(scheduled_at) FROM ("
        f"SELECT scheduled_at FROM {EVENTS}{pending} WHERE status = 'pending' "
        "AND publisher_backend >= %s AND publisher_backend <= %s "
        f"ORDER BY publisher_backend, id LIMIT {FIRST}) AS earliest), "
        f"(SELECT MIN(scheduled_at) FROM {EVENTS} WHERE publisher_backend = %s "
        "AND status IN ('scheduled', 'retry') AND scheduled_at <= %s), "
        f"(SELECT created_at FROM {EVENTS} WHERE id = first_retry), "
        f"(SELECT COUNT(*) {living}), "
        f"({FREE_PARTITIONS}), "
        f"(SELECT circuit_open_since {away}), (SELECT circuit_error {away}), "
        f"(SELECT paused_at FROM {BACKENDS} WHERE backend = %s), "
        f"(SELECT paused_by FROM {BACKENDS} WHERE backend = %s), "
        f"{', '.join(scan.columns for scan in scans)} "
        f"FROM {' CROSS JOIN '.join(_counting(scan, hint) for scan in scans)}"
    )
    lease = (backend, conf.LEASE_SECONDS)
    params: list[Any] = [*[backend] * 3, now, *lease, backend, conf.PARTITIONS, *lease, *lease]
    params += [backend, backend]
    params += [value for _ in scans for value in (backend, backend, exact)]
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        row = cursor.fetchone()
    counts, at_least = _read_counts(scans, row[9:], exact)
    due = [moment for value in row[:2] if (moment := stored_moment(value, using))]
    return Overview(
        backend=backend,
        **counts,
        at_least=at_least,
        oldest_due=min(due, default=None),
        oldest_retry=stored_moment(row[2], using),
        relays=row[3],
        free_partitions=row[4],
        away_since=stored_moment(row[5], using),
        away_because=row[6] or "",
        paused_at=stored_moment(row[7], using),
        paused_by=row[8] or "",
    )


def _counting(scan: _Scan, hint: str) -> str:
    """Return a table of one row: what `columns` names, and the first event in retry.

    The condition on the backend is a range, so that the primary key can't give the order, which
    PostgreSQL else may take it for.
    """
    counts = [
        f"COALESCE(SUM(CASE WHEN status = '{status}' THEN 1 ELSE 0 END), 0) AS {status}"
        for status in scan.statuses
    ]
    if scan.finds_retry:
        counts.append("MIN(CASE WHEN status = 'retry' THEN id END) AS first_retry")
    return (
        f"(SELECT COUNT(*) AS went_over, {', '.join(counts)} FROM (SELECT status, id FROM "
        f"{EVENTS}{hint.format(scan.name)} WHERE {scan.condition} "
        "AND publisher_backend >= %s AND publisher_backend <= %s "
        f"ORDER BY publisher_backend, {scan.order} LIMIT %s) AS walk) "
        f"AS {scan.table}"
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
