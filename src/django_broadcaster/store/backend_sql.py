"""The conditions and hints by which statements find the undelivered rows of one backend."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from .clock import DatabaseClock
from .relay_sql import IN_ORDER, RelaySQL
from .sql import BACKENDS, EVENTS

PARTITION = f"{EVENTS}.partition"  # the word alone is reserved on MariaDB and MySQL


class _Pending(NamedTuple):
    """A hint, a condition and an order that make a fetch use the index of pending rows.

    With stale statistics, a database may prefer the primary key and scan all delivered rows, or
    prefer a sort and read the whole backlog.
    """

    hint: str
    condition: str
    order: str


_PENDING = {
    # With a range of both columns, PostgreSQL can't use the primary key for the order.
    "postgresql": _Pending(
        IN_ORDER,
        "(publisher_backend, id) >= (%s, %s) AND publisher_backend <= %s",
        "publisher_backend, id",
    ),
    # With a text column in the order, MySQL sorts, even if the column has one value.
    "mysql": _Pending(
        " FORCE INDEX (broadcaster_pending)",
        "publisher_backend = %s AND id >= %s AND publisher_backend = %s",
        "id",
    ),
    "sqlite": _Pending(
        " INDEXED BY broadcaster_pending",
        "publisher_backend = %s AND id >= %s AND publisher_backend = %s",
        "id",
    ),
}


class BackendSQL(RelaySQL):
    """Statements about the rows of one backend, on behalf of the lease `lease_id`."""

    def __init__(
        self,
        using: str,
        alias: str,
        lease_id: int,
        clock: DatabaseClock | None = None,
        timeline: str | None = None,
    ) -> None:
        super().__init__(using, lease_id, clock, timeline)
        self.alias = alias
        self._skipped: Collection[int] = ()
        self._skipped_keys: Collection[str] = ()
        self._pending = _PENDING[self._connection.vendor]
        # MariaDB would sort the events of two statuses, and the order does not matter.
        mysql = self._connection.vendor == "mysql"
        self._by_due = "" if mysql else " ORDER BY scheduled_at, id"
        hints = {"postgresql": IN_ORDER, "mysql": " FORCE INDEX (broadcaster_due)"}
        self._due_hint = hints.get(self._connection.vendor, "")
        self._any_due = (
            f"SELECT 1 FROM {EVENTS}{self._due_hint} WHERE publisher_backend = %s "
            "AND status IN ('scheduled', 'retry') AND scheduled_at <= %s"
        )
        self._paused = f"SELECT 1 FROM {BACKENDS} WHERE backend = %s AND paused_at IS NOT NULL"

    def skip(self, ids: Collection[int], keys: Collection[str]) -> None:
        """Skip these rows, and no others, in all later statements.

        Args:
            ids: Ids of pending rows whose delivery is complete: they are not fetched or counted.
            keys: Keys that wait for one of these rows: their blocked rows are not released.
        """
        self._skipped, self._skipped_keys = ids, keys

    def _except_skipped(self) -> str:
        """Return the condition that excludes the skipped rows, if there are any."""
        return f" AND NOT ({self._in('id', self._skipped)})" if self._skipped else ""

    def _values_of_skipped(self) -> list[Any]:
        return self._values(self._skipped) if self._skipped else []
