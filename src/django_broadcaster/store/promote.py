"""Waiting rows: due ones and those of blocked keys, which a relay moves back into `pending`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from .backend_sql import PARTITION, BackendSQL
from .relay_sql import IN_ORDER, batched
from .sql import EVENTS

_KEYS = 50
"""Maximum of keys in a statement, on databases that need a subquery for each key."""


class PromoteSQL(BackendSQL):
    """Statements about rows that are due later or are blocked."""

    def promote(self, partitions: Collection[int], limit: int) -> list[tuple[int, str]]:
        """Make due rows pending; return their ids and keys."""
        with self._choosing() as skip_locked:
            rows = self._due(partitions, limit, skip_locked)
            ids = [row_id for row_id, _ in rows]
            if ids:
                self._move(ids, "scheduled", "pending")
                self._move(ids, "retry", "pending")
        return rows

    def _due(self, partitions: Collection[int], limit: int, lock: str) -> list[tuple[int, str]]:
        """Return the ids and keys of the first due rows."""
        sql = (
            f"SELECT id, partition_key, scheduled_at FROM {EVENTS}{self._due_hint} "
            f"WHERE publisher_backend = %s AND {{status}} AND scheduled_at <= %s "
            f"AND {self._in(PARTITION, partitions)} ORDER BY scheduled_at, id LIMIT %s{lock}"
        )
        params = [self.alias, self._now(), *self._values(partitions), limit]
        if self._connection.vendor != "mysql":
            rows = self._select(sql.format(status="status IN ('scheduled', 'retry')"), params)
        else:  # the index of MariaDB and MySQL has the order within one status
            each = [sql.format(status=f"status = '{name}'") for name in ("scheduled", "retry")]
            union = " UNION ALL ".join(f"({one})" for one in each)
            last = f"{union} ORDER BY scheduled_at, id LIMIT %s"
            rows = self._select(last, [*params, *params, limit])
        return [(row_id, key) for row_id, key, _ in rows]

    def release(
        self, partitions: Collection[int], limit: int, keys: Collection[str] | None = None
    ) -> list[tuple[int, str]]:
        """Make blocked rows pending if no earlier row of their key is in retry.

        Args:
            partitions: The numbers of the partitions.
            limit: Maximum of rows. With `keys`, each key gets the same share.
            keys: If given, only rows of these keys. Those that `skip` was called with are left out.

        Returns:
            The ids and keys of the rows, the first rows of each key.
        """
        if keys is not None:
            keys = [key for key in keys if key not in self._skipped_keys]
            if not keys:
                return []
            if len(keys) > _KEYS and not self._postgres:
                share = max(_KEYS, limit * _KEYS // len(keys))
                parts = [self.release(partitions, share, some) for some in batched(keys, _KEYS)]
                return sorted(row for part in parts for row in part)
        if keys is None:
            first = limit
            waiting, values = self._waiting(partitions)
            if self._skipped_keys:
                waiting += f" AND NOT ({self._in('partition_key', self._skipped_keys)})"
                values += self._values(self._skipped_keys)
        else:
            first = max(1, limit // len(keys))
            waiting, values = self._waiting_of(keys, partitions, first)
        sql = (
            "SELECT id, name FROM (SELECT id, name, SUM(CASE WHEN status = 'retry' THEN 1 ELSE 0 "
            "END) OVER (PARTITION BY name ORDER BY id) AS heads, "
            "ROW_NUMBER() OVER (PARTITION BY name ORDER BY id) AS place "
            f"FROM ({waiting}) AS w) AS r WHERE heads = 0 AND place <= %s ORDER BY id LIMIT %s"
        )
        rows = self._select(sql, [*values, first, max(limit, len(keys or ()))])
        move = self._moving("blocked", "pending")

        def release(ids: Collection[int]) -> int:
            free, waiting = set(ids), set()
            for row_id, name in rows:
                if row_id not in free:
                    waiting.add(name)  # no row of a key may overtake a locked one
                elif name in waiting:
                    free.discard(row_id)
            return move(sorted(free)) if free else 0

        if rows:
            self._skipping_locked([row_id for row_id, _ in rows], release)
        return rows

    def hasten(self, ids: Collection[int], partitions: Collection[int]) -> set[int]:
        """Make rows in retry in the partitions due now; return the ids of those that are locked."""
        now, locked = self._now(), set()
        for some in batched(sorted(ids), 1000):
            later = self._due_after(now, some, partitions)
            moved = self._move(later, "retry", "retry", scheduled_at=now) if later else 0
            if moved < len(later) and self.is_careful:
                locked |= self._due_after(now, later, partitions)
        return locked

    def _due_after(
        self, moment: Any, ids: Collection[int], partitions: Collection[int]
    ) -> set[int]:
        """Return the ids whose rows are in retry in the partitions and due after a moment."""
        sql = (
            f"SELECT id FROM {self._by_id} WHERE {self._in('id', ids)} "
            f"AND {self._in(PARTITION, partitions)} "
            f"AND {self._has_status('retry')} AND scheduled_at > %s"
        )
        values = [*self._values(ids), *self._values(partitions), moment]
        return {row_id for (row_id,) in self._select(sql, values)}

    def count_crash(
        self, first: int, last: int, partitions: Collection[int], only: Collection[int] = ()
    ) -> int:
        """Count a crash of a relay for the pending rows that it was delivering.

        The caller has an open transaction. Rows that another transaction has locked are skipped,
        because the lease of a dead relay must end at once.

        Args:
            first: The first id of the batch.
            last: The last id of the batch.
            partitions: The relay's partitions.
            only: If given, only these ids.

        Returns:
            The number of rows.
        """
        these = f" AND {self._in('id', only)}" if only else ""
        sql = (
            f"SELECT id FROM {EVENTS} WHERE publisher_backend = %s AND status = 'pending' "
            f"AND id BETWEEN %s AND %s AND {self._in(PARTITION, partitions)}{these} ORDER BY id"
        )
        numbers = self._values(partitions)
        params = [self.alias, first, last, *numbers, *(self._values(only) if only else ())]
        ids = [row_id for (row_id,) in self._select(f"{sql}{self._skip_locked}", params)]
        if not ids:
            return 0
        count = f"UPDATE {self._by_id} SET crash_count = crash_count + 1, updated_at = %s "
        where = f"WHERE {self._in('id', ids)}"
        return self._execute(f"{count}{where}", [self._now(), *self._values(ids)])

    def blocked_keys(
        self, partitions: Collection[int], keys: Collection[str] | None = None
    ) -> dict[str, int]:
        """Return the blocked keys, all or those of `keys`, each with its first waiting id."""
        if keys is None:
            waiting, values = self._waiting(partitions)
        elif len(keys) > _KEYS and not self._postgres:
            known: dict[str, int] = {}
            for some in batched(keys, _KEYS):
                known |= self.blocked_keys(partitions, some)
            return known
        else:
            waiting, values = self._waiting_of(keys, partitions, 1)
        return dict(
            self._select(f"SELECT name, MIN(id) FROM ({waiting}) AS w GROUP BY name", values)
        )

    # The rows of blocked keys, as part of a statement

    def _waiting(self, partitions: Collection[int], hint: str = "") -> tuple[str, list[Any]]:
        """Return a query for the rows of all blocked keys, and its parameters."""
        sql = (
            f"SELECT id, partition_key AS name, status FROM {EVENTS}{hint} "
            "WHERE publisher_backend = %s AND status IN ('retry', 'blocked') "
            f"AND {self._in(PARTITION, partitions)} AND partition_key <> ''"
        )
        return sql, [self.alias, *self._values(partitions)]

    def _waiting_of(
        self, keys: Collection[str], partitions: Collection[int], first: int
    ) -> tuple[str, list[Any]]:
        """Return a query for at least the `first` rows of each key, and its parameters.

        With old statistics, PostgreSQL may expect few rows, and read all blocked keys for each row.
        The lateral join forces it to use the index.
        """
        if not self._postgres:
            return self._waiting_of_each(keys, partitions, first)
        sql, values = self._waiting(partitions, IN_ORDER)
        return (
            f"SELECT w.* FROM unnest(%s::text[]) AS k(wanted) CROSS JOIN LATERAL ({sql} "
            f"AND partition_key = k.wanted ORDER BY publisher_backend, partition_key, id "
            f"LIMIT %s) AS w"
        ), [list(keys), *values, first]

    def _waiting_of_each(
        self, keys: Collection[str], partitions: Collection[int], first: int
    ) -> tuple[str, list[Any]]:
        """Return the same for other databases, which need a subquery for each key."""
        mine = f"{PARTITION} IN ({', '.join(str(int(number)) for number in partitions) or 'NULL'})"
        hint, statuses = "", ["status IN ('retry', 'blocked')"]
        if self._connection.vendor == "mysql":  # its index begins with the status
            hint = " FORCE INDEX (broadcaster_waiting)"
            statuses = ["status = 'retry'", "status = 'blocked'"]
        each = [
            f"SELECT id, partition_key AS name, status FROM {EVENTS}{hint} "
            f"WHERE publisher_backend = %s AND {status} AND {mine} AND partition_key = %s "
            "ORDER BY id LIMIT %s"
            for status in statuses
        ]
        sql = " UNION ALL ".join(f"SELECT * FROM ({one}) AS k" for _ in keys for one in each)
        params = [value for key in keys for _ in each for value in (self.alias, key, first)]
        return sql, params
