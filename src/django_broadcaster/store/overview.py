"""The state of a backend, by queries whose cost does not grow with the outbox.

Counts come from the partial indexes and stop at `EXACT` rows. Delivered events are not counted.
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
"""Rows up to which a state is counted, or two states that share an index."""

FIRST = 2_000
"""Pending events among which the oldest due one is searched.

It is usually the first one, but a scheduled or replayed event may have a lower id.
"""

ERROR = 300
"""Characters of an error that are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The current state of one backend.

    `blocked` counts events of keys whose first event is in retry, and `failed` counts dead letters.
    The states in `at_least` may have more events than was counted. `oldest_due` is the earliest
    time at which a waiting event was due. `oldest_retry` is the time at which the first event in
    retry was created, and `retry_error` the start of its error. `relays` counts those that hold a
    lease, and `free_partitions` belong to no relay. `away_since` is the time since which a relay
    could not reach the broker, and `away_because` its error.
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
    retry_error: str
    relays: int
    free_partitions: int
    away_since: datetime | None
    away_because: str
    paused_at: datetime | None
    paused_by: str

    @property
    def lag(self) -> float:
        """Seconds for which the oldest due event has been due; 0 if none is due."""
        return _age(self.oldest_due)

    @property
    def retry_age(self) -> float:
        """Seconds since the first event in retry was created; 0 without one."""
        return _age(self.oldest_retry)

    @property
    def oldest_waiting(self) -> datetime | None:
        """The time since which the oldest event of the backlog waits.

        A blocked event is younger than the event in retry before it.
        """
        moments = [each for each in (self.oldest_due, self.oldest_retry) if each is not None]
        return min(moments, default=None)

    @property
    def waiting_age(self) -> float:
        """Seconds for which the oldest event of the backlog waits; 0 if the backlog is empty."""
        return _age(self.oldest_waiting)

    @property
    def undelivered(self) -> int:
        """The number of undelivered events, a minimum if `at_least` has their states."""
        return self.pending + self.scheduled + self.retry + self.blocked

    @property
    def is_paused(self) -> bool:
        """Whether an operator has paused the backend."""
        return self.paused_at is not None

    def as_dict(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        ages = ("lag", "retry_age", "waiting_age")
        rounded = {name: round(getattr(self, name), 3) for name in ages}
        return {**asdict(self), "at_least": sorted(self.at_least), **rounded}


def _age(moment: datetime | None) -> float:
    """Return the seconds since a moment; 0 for none."""
    return 0.0 if moment is None else max(0.0, (datetime.now(UTC) - moment).total_seconds())


def overviews(
    using: str, backends: Collection[str], *, exact: int | None = None
) -> Iterator[Overview]:
    """Yield the overview of each backend. Counts stop at `exact`, by default `EXACT`."""
    for alias in backends:
        yield _overview(using, alias, exact or EXACT)


class _Scan(NamedTuple):
    """A scan of one index that counts the rows in some states.

    The scan has the order of the index and a maximum of rows, whatever their states. With a
    condition on one state, a scan of an index with several states would have no bound, and
    PostgreSQL might prefer to scan the table.

    With `finds_retry`, the scan also finds the first event in retry. Its index has no blocked
    rows, of which a key may have any number.
    """

    name: str
    condition: str
    order: str
    statuses: tuple[str, ...]
    finds_retry: bool = False

    @property
    def table(self) -> str:
        """The name of the scan's result."""
        return f"{self.name}_{self.statuses[0]}"

    @property
    def columns(self) -> str:
        """The columns of the number of scanned rows, and of the count of each state."""
        return ", ".join(f"{self.table}.{name}" for name in ("scanned", *self.statuses))


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
_MYSQL_SCANS = tuple(  # on MariaDB and MySQL, the status is the first column of each index
    _Scan(scan.name, f"status = '{status}'", scan.order, (status,), finds_retry=status == "retry")
    for scan in _SCANS
    for status in scan.statuses
)
_HINTS = {"postgresql": "", "sqlite": " INDEXED BY {}", "mysql": " FORCE INDEX ({})"}


def _overview(using: str, alias: str, exact: int) -> Overview:
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
        f"(SELECT SUBSTR(last_error, 1, {ERROR}) FROM {EVENTS} WHERE id = first_retry), "
        f"(SELECT COUNT(*) {living}), "
        f"({FREE_PARTITIONS}), "
        f"(SELECT circuit_open_since {away}), (SELECT circuit_error {away}), "
        f"(SELECT paused_at FROM {BACKENDS} WHERE backend = %s), "
        f"(SELECT paused_by FROM {BACKENDS} WHERE backend = %s), "
        f"{', '.join(scan.columns for scan in scans)} "
        f"FROM {' CROSS JOIN '.join(_counting(scan, hint) for scan in scans)}"
    )
    lease = (alias, conf.LEASE_SECONDS)
    params: list[Any] = [*[alias] * 3, now, *lease, alias, conf.PARTITIONS, *lease, *lease]
    params += [alias, alias]
    params += [value for _ in scans for value in (alias, alias, exact)]
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        row = cursor.fetchone()
    counts, at_least = _read_counts(scans, row[10:], exact)
    due = [moment for value in row[:2] if (moment := stored_moment(value, using))]
    return Overview(
        backend=alias,
        **counts,
        at_least=at_least,
        oldest_due=min(due, default=None),
        oldest_retry=stored_moment(row[2], using),
        retry_error=row[3] or "",
        relays=row[4],
        free_partitions=row[5],
        away_since=stored_moment(row[6], using),
        away_because=row[7] or "",
        paused_at=stored_moment(row[8], using),
        paused_by=row[9] or "",
    )


def _counting(scan: _Scan, hint: str) -> str:
    """Return a table of one row with the `columns` and, if wanted, the first event in retry.

    The condition on the backend is a range. With an equality, PostgreSQL might use the primary key
    for the order.
    """
    counts = [
        f"COALESCE(SUM(CASE WHEN status = '{status}' THEN 1 ELSE 0 END), 0) AS {status}"
        for status in scan.statuses
    ]
    if scan.finds_retry:
        counts.append("MIN(CASE WHEN status = 'retry' THEN id END) AS first_retry")
    return (
        f"(SELECT COUNT(*) AS scanned, {', '.join(counts)} FROM (SELECT status, id FROM "
        f"{EVENTS}{hint.format(scan.name)} WHERE {scan.condition} "
        "AND publisher_backend >= %s AND publisher_backend <= %s "
        f"ORDER BY publisher_backend, {scan.order} LIMIT %s) AS walk) "
        f"AS {scan.table}"
    )


def _read_counts(
    scans: Sequence[_Scan], values: Sequence[Any], exact: int
) -> tuple[dict[str, int], frozenset[str]]:
    """Return the counts by state, and the states that may have more events."""
    counts: dict[str, int] = {}
    at_least: set[str] = set()
    rest = iter(values)
    for scan in scans:
        if int(next(rest)) >= exact:
            at_least.update(scan.statuses)
        counts |= {status: int(next(rest)) for status in scan.statuses}
    return counts, frozenset(at_least)
