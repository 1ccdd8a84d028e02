"""Events that could not be settled because another transaction had locked their rows.

An operator's transaction that cancelled an event and stays open holds the lock of its row. The
verdict on the event is kept here and written when the lock is gone. Until then the event is not
fetched, so it is not sent again; its key waits if the event failed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection

from django_broadcaster.backends.position import Position, mark_of
from django_broadcaster.store import RelayRows

from .blocked_keys import BlockedKeys
from .verdicts import Verdicts

logger = logging.getLogger("django_broadcaster.relay")

RETRY_SECONDS = 1.0
"""Seconds between attempts to settle locked events."""

MOST = 10_000
"""Locked events from which on nothing more is delivered: each fetch must leave them out."""


class LockedEvents:
    """The locked events of one lease, with the verdicts on them."""

    def __init__(self, rows: RelayRows, blocked: BlockedKeys) -> None:
        self._rows = rows
        self._blocked = blocked
        self._verdicts = Verdicts()
        self._ids: frozenset[int] = frozenset()
        self._next_at = 0.0

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, row_id: object) -> bool:
        return row_id in self._ids

    @property
    def are_many(self) -> bool:
        """Whether there are too many for further deliveries."""
        return len(self) >= MOST

    @property
    def delivered(self) -> Position:
        """The locked events that were delivered."""
        return {row.id: mark_of(row.event_id) for row in self._verdicts.published}

    def keep(self, verdicts: Verdicts) -> None:
        """Keep the verdicts on those events that are still pending, because they are locked."""
        if not self._rows.is_careful:  # no statement timed out waiting for a lock
            return
        locked = self._rows.pending_of([row.id for row in verdicts.rows])
        if not locked:
            return
        self._verdicts = self._verdicts.with_others(verdicts.of_rows(locked))
        self._skip()
        self._next_at = time.monotonic() + RETRY_SECONDS
        logger.warning(
            "Could not settle %d events of backend %r: another transaction has locked their rows; "
            "skipping them and retrying every %.0f s.",
            len(locked),
            self._rows.alias,
            RETRY_SECONDS,
            extra={"backend": self._rows.alias, "relay": self._rows.lease_id},
        )

    def hasten(self, ids: Collection[int]) -> None:
        """Retry these events at once when their lock is gone."""
        self._verdicts.retry = [
            (row, 0.0 if row.id in ids else delay, error)
            for row, delay, error in self._verdicts.retry
        ]

    def settle(
        self,
        write: Callable[[Verdicts], int],
        partitions: Collection[int],
        *,
        at_once: bool = False,
    ) -> None:
        """Settle events whose lock is gone, if an attempt is due; raises the database's errors."""
        if not self or (time.monotonic() < self._next_at and not at_once):
            return
        mine = {row.id for row in self._verdicts.rows if row.partition in partitions}
        before = self._verdicts.of_rows(mine)  # the other partitions have other owners now
        write(before)
        self._next_at = time.monotonic() + RETRY_SECONDS
        locked = self._rows.pending_of(mine)
        self._verdicts = before.of_rows(locked)
        self._skip()
        settled = [row for row in before.rows if row.id not in locked]
        self._blocked.refresh(partitions, (row.partition_key for row in settled))
        if settled:
            logger.info(
                "Settled %d events of backend %r that another transaction had locked; "
                "%d are still locked.",
                len(settled),
                self._rows.alias,
                len(self),
                extra={"backend": self._rows.alias, "relay": self._rows.lease_id},
            )

    def _skip(self) -> None:
        """Let statements skip the locked rows, and the keys that wait for one of them."""
        self._ids = frozenset(row.id for row in self._verdicts.rows)
        retried = [row for row, _, _ in self._verdicts.retry]
        keys = self._blocked.set_locked([*retried, *self._verdicts.hold])
        self._rows.skip(self._ids, keys)
