"""The outcome of a delivery: statements that move rows out of `pending`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta

from .relay_sql import RelaySQL, thousands
from .sql import ATTEMPTS


class SettleSQL(RelaySQL):
    """Statements that settle a delivery."""

    def mark_published(self, ids: Collection[int], *, keep: bool) -> int:
        """Mark pending rows as delivered, or delete them unless `keep`; return how many."""
        if keep:
            now = self._now()
            return self._move(ids, "pending", "published", published_at=now, updated_at=now)

        def delete(ids: Collection[int]) -> int:
            sql = (
                f"DELETE {self._deleted}FROM {self._by_id} WHERE {self._in('id', ids)} "
                f"AND {self._has_status('pending')}{self._fence}"
            )
            return self._change(sql, [*self._values(ids), self.lease_id])

        return self._skipping_locked(ids, delete)

    def retry(self, failures: Sequence[tuple[int, float, str, int]]) -> int:
        """Move pending rows into retry; return how many.

        A failure is the row's id, the delay in seconds, the error's text, and the number of retries
        that it costs, 1 or 0.
        """
        now = self.clock.now()
        ids, dues, errors, spent = zip(
            *(
                (row_id, self._adapt(now + timedelta(seconds=delay)), self._text(error), costs)
                for row_id, delay, error, costs in failures
            ),
            strict=True,
        )
        changes = "status = 'retry', crash_count = 0"
        if self._postgres:
            return self._move_each(
                f"{changes}, scheduled_at = v.due, last_error = v.error, "
                "retry_count = retry_count + v.spent",
                "%s::bigint[], %s::timestamptz[], %s::text[], %s::int[]",
                "id, due, error, spent",
                [ids, dues, errors, spent],
            )
        return self._move_each_by_case(
            f"{changes}, scheduled_at = {{case}}, last_error = {{case}}, "
            "retry_count = retry_count + {case}",
            [ids, dues, errors, spent],
        )

    def dead_letter(self, failures: Sequence[tuple[int, str]]) -> int:
        """Make pending rows dead letters by one statement; return how many.

        A failure is the row's id and the error's text.
        """
        ids = [row_id for row_id, _ in failures]
        errors = [self._text(error) for _, error in failures]
        ends = [self._now()] * len(ids)
        if self._postgres:
            return self._move_each(
                "status = 'failed', last_error = v.error, ended_at = v.ended_at",
                "%s::bigint[], %s::text[], %s::timestamptz[]",
                "id, error, ended_at",
                [ids, errors, ends],
            )
        changes = "status = 'failed', last_error = {case}, ended_at = {case}"
        return self._move_each_by_case(changes, [ids, errors, ends])

    def expire(self, ids: Collection[int]) -> int:
        """Cancel pending rows whose `expirytime` has passed; return how many."""
        error = "Expired: the expirytime passed before the event was sent"
        now = self._now()
        return self._move(
            ids, "pending", "cancelled", last_error=error, ended_at=now, updated_at=now
        )

    def record_attempts(self, relay: str, attempts: Sequence[tuple[int, int, str]]) -> None:
        """Record failed attempts: the row's id, the attempt's number, and the error.

        The statement has no fence: the attempts have been made, whichever relay owns the rows now.
        """
        now = self._now()
        names = [self._connection.ops.quote_name(name) for name in ("row", "number")]
        into = f"INSERT INTO {ATTEMPTS} ({', '.join(names)}, attempted_at, relay, error)"
        for rows in thousands(attempts):
            values = ", ".join(["(%s, %s, %s, %s, %s)"] * len(rows))
            params = [
                value
                for row_id, number, error in rows
                for value in (row_id, number, now, relay, self._text(error))
            ]
            self._execute(f"{into} VALUES {values}", params)

    def block(self, ids: Collection[int]) -> int:
        """Mark pending rows as blocked by an earlier one of their key; return how many."""
        return self._move(ids, "pending", "blocked")
