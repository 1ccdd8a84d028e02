"""Everything that one lease owns: the rows of its partitions, and what is remembered of them.

A relay makes it when it joins. It ends with the lease: the next owner of the partitions reads the
rows again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from time import monotonic

from django_broadcaster.store import RelayRows

from .blocked_keys import BlockedKeys
from .doubts import Doubts
from .fetching import Fetcher
from .lease import Lease
from .locked import LockedEvents
from .postponed import Postponed
from .watermark import Watermark

CHUNK = 1000
"""The most rows that one statement promotes or releases."""

HASTEN_SECONDS = 1.0
"""Seconds between attempts to make events due whose rows another transaction has locked."""


class Owned:
    """The rows of a lease's partitions, and the keys and rows that have to wait."""

    def __init__(
        self, lease: Lease, *, in_parts: bool = False, clock: Callable[[], float] = monotonic
    ) -> None:
        self.lease = lease
        self.rows = RelayRows(lease.using, lease.alias, lease.id, lease.clock, lease.timeline)
        self.blocked = BlockedKeys(self.rows)
        self.locked = LockedEvents(self.rows, self.blocked)
        self.postponed = Postponed()
        self.doubts = Doubts(in_parts=in_parts, clock=clock)
        self.fetcher = Fetcher(self.rows)
        self.watermark = Watermark(self.rows)
        self._clock = clock
        self.is_current = False
        """Whether the partitions and blocked keys were read since all was forgotten."""
        self._hastens_at = 0.0
        self.is_claimed = False
        """Whether the relay may send, if its backend keeps positions."""

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions that the lease owns now."""
        return self.lease.partitions

    def forget(self) -> None:
        """Read everything again: a statement may have been cut off, or have had no answer."""
        self.is_current = self.is_claimed = False
        self.watermark.reset()
        self.doubts.scan_again()

    def rebalance(self) -> None:
        """Take or give up partitions, and read what waits in new ones; raises LeaseLost."""
        changed = self.lease.rebalance()
        if changed or not self.is_current:
            self.watermark.reset()
            self.fetcher.reset()
            self.doubts.scan_again()
            self.blocked.reload(self.partitions)
            self.is_current = True
            self.is_claimed = False

    def promote(self) -> int:
        """Make events pending that have become due; return how many.

        The first waiting event of a blocked key goes alone: those after it stay blocked until it
        is settled.
        """
        promoted = self.rows.promote(self.partitions, CHUNK)
        self.blocked.refresh(self.partitions, (key for _, key in promoted))
        self.postponed.forget(row_id for row_id, _ in promoted)
        self._mark_pending(row_id for row_id, _ in promoted)
        return len(promoted)

    def release(self, keys: Collection[str] | None = None) -> None:
        """Make blocked events of `keys`, by default of any, pending if their key waits no more."""
        released = self.rows.release(self.partitions, CHUNK, keys)
        self.blocked.refresh(self.partitions, keys or (key for _, key in released))
        self._mark_pending(row_id for row_id, _ in released)

    def hasten(self, destinations: Iterable[str]) -> None:
        """Make events due that wait for one of these destinations; retry those that are locked."""
        self.postponed.make_due(destinations)
        if self.postponed.due and self._clock() >= self._hastens_at:
            self.locked.hasten(self.postponed.due)
            self.postponed.due = self.rows.hasten(self.postponed.due, self.partitions)
            self._hastens_at = self._clock() + HASTEN_SECONDS if self.postponed.due else 0.0

    def _mark_pending(self, row_ids: Iterable[int]) -> None:
        """Note that rows have been made pending, of which some are below where a fetch starts."""
        if ids := list(row_ids):
            self.watermark.pending_again(ids)
            self.doubts.scan_again()
