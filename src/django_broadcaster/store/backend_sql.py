"""The conditions and hints by which statements find the undelivered rows of one backend."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from .clock import DatabaseClock
from .relay_sql import IN_ORDER, RelaySQL
from .sql import BACKENDS, EVENTS

PARTITION = f"{EVENTS}.partition"  # the word alone is reserved on MariaDB and MySQL


class _Pending(NamedTuple):
    """How a fetch keeps to the index of pending rows: a hint, a condition and an order.

    With stale statistics the primary key looks as good, and a fetch would walk over all delivered
    rows; or a sort looks cheap, and a fetch would read the whole backlog.
    """

    hint: str
    condition: str
    order: str


_PENDING = {
    # Its primary key can't give the order of both columns of a range.
    "postgresql": _Pending(
        IN_ORDER,
        "(publisher_backend, id) >= (%s, %s) AND publisher_backend <= %s",
        "publisher_backend, id",
    ),
    # It sorts if the order names a column of text, though that has one value.
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
    """Statements about the rows of one backend, on behalf of the lease `relay_id`."""

    def __init__(
        self,
        using: str,
        backend: str,
        relay_id: int,
        clock: DatabaseClock | None = None,
        timeline: str | None = None,
    ) -> None:
        super().__init__(using, relay_id, clock, timeline)
        self.backend = backend
        self.ignored: Collection[int] = ()
        """Ids of pending rows that are neither fetched nor counted: their delivery is done."""
        self.held_keys: Collection[str] = ()
        """Keys that wait for one of these rows: nothing of them is released."""
        self._pending = _PENDING[self._connection.vendor]
        # MariaDB would sort the events of two statuses, and any of them will do.
        mysql = self._connection.vendor == "mysql"
        self._by_due = "" if mysql else " ORDER BY scheduled_at, id"
        hints = {"postgresql": IN_ORDER, "mysql": " FORCE INDEX (broadcaster_due)"}
        self._due_hint = hints.get(self._connection.vendor, "")
        self._any_due = (
            f"SELECT 1 FROM {EVENTS}{self._due_hint} WHERE publisher_backend = %s "
            "AND status IN ('scheduled', 'retry') AND scheduled_at <= %s"
        )
        self._paused = f"SELECT 1 FROM {BACKENDS} WHERE backend = %s AND paused_at IS NOT NULL"

    def _except_ignored(self) -> str:
        """Return the condition that leaves out the rows in `ignored`, if there are any."""
        return f" AND NOT ({self._in('id', self.ignored)})" if self.ignored else ""

    def _values_of_ignored(self) -> list[Any]:
        return self._values(self.ignored) if self.ignored else []
