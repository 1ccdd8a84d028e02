"""The questions of an idle relay, each answered by one statement."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from django_broadcaster.conf import conf

from .backend_sql import PARTITION, BackendSQL
from .sql import ALIVE, EVENTS, FREE_PARTITIONS, OPERATIONS, RELAYS


class Pulse(NamedTuple):
    """The state of a backend for an idle relay.

    `pending` and `due` are True if there are such events in its partitions. `overdue` is True if a
    relay has missed heartbeats for the time of a lease. `operation` is True if an operation waits
    or runs.
    """

    pending: bool
    due: bool
    relays: int
    overdue: bool
    free_partitions: int
    is_paused: bool
    operation: bool


class PulseSQL(BackendSQL):
    """Queries that tell a relay whether anything is to be done."""

    def pulse(self, partitions: Collection[int], start: int) -> Pulse:
        """Query by one statement whether the relay has work."""
        mine = self._in(PARTITION, partitions)
        alive = ALIVE[self._connection.vendor]
        sql = (
            f"SELECT (SELECT 1 FROM {EVENTS}{self._pending.hint} WHERE status = 'pending' "
            f"AND {self._pending.condition} AND {mine}{self._except_skipped()} "
            f"ORDER BY {self._pending.order} LIMIT 1), "
            f"({self._any_due} AND {mine}{self._by_due} LIMIT 1), "
            f"(SELECT COUNT(*) FROM {RELAYS} WHERE backend = %s), "
            f"(SELECT 1 FROM {RELAYS} WHERE backend = %s AND NOT {alive} LIMIT 1), "
            f"({FREE_PARTITIONS}), "
            f"({self._paused}), "
            f"(SELECT 1 FROM {OPERATIONS} WHERE state IN ('waiting', 'running') LIMIT 1)"
        )
        numbers = self._values(partitions)
        pending = [self.alias, start, self.alias, *numbers, *self._values_of_skipped()]
        due = [self.alias, self._now(), *numbers]
        relays = [self.alias, self.alias, float(conf.LEASE_SECONDS)]
        rest = [self.alias, conf.PARTITIONS, self.alias]
        ((has_pending, has_due, count, is_overdue, free, is_paused, operation),) = self._select(
            sql, [*pending, *due, *relays, *rest]
        )
        return Pulse(
            bool(has_pending),
            bool(has_due),
            count,
            bool(is_overdue),
            free,
            bool(is_paused),
            bool(operation),
        )

    def is_paused(self) -> bool:
        """Return True if an operator has paused the backend."""
        return bool(self._select(self._paused, [self.alias]))

    def writers(self) -> frozenset[str] | None:
        """Return the other transactions that may have taken ids; None if unknown.

        An INSERT locks the table before it takes an id from the sequence.
        """
        if not self._postgres:
            return None
        sql = (
            "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'relation' "
            f"AND relation = '{EVENTS}'::regclass AND pid IS DISTINCT FROM pg_backend_pid() "
            "AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', "
            "'AccessExclusiveLock')"
        )
        return frozenset(row[0] for row in self._select(sql, []))

    def has_due(self) -> bool:
        """Return True if the backend has an event that is due, in any partition."""
        sql = (
            f"SELECT (SELECT 1 FROM {EVENTS}{self._pending.hint} WHERE publisher_backend = %s "
            f"AND status = 'pending' ORDER BY {self._pending.order} LIMIT 1), "
            f"({self._any_due}{self._by_due} LIMIT 1)"
        )
        return any(self._select(sql, [self.alias, self.alias, self._now()])[0])
