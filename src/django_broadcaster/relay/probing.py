"""Probes: a few events of different keys, which show whether a broker is available again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic

from django_broadcaster.store import Head, PendingRow

from .batch import Batch
from .owned import Owned
from .verdicts import Report

PICKS = 20
"""Queries for a probe where keys have many events, besides one for each of its events."""


class Probe:
    """The first event of each of some keys; those go first that did not fail yet.

    Events that failed are sent again only if it `repeats`.
    """

    def __init__(
        self,
        owned: Owned,
        limit: int,
        *,
        repeats: bool,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._owned = owned
        self._limit = limit
        self._repeats = repeats
        self._clock = clock
        self.found_nothing = False
        """Whether no event of the own partitions is pending."""

    def fetch(self) -> Batch:
        """Return at most `limit` rows, and some that their keys hold; raises the database's errors.

        What does not fit into one batch is left for the next probe.
        """
        if not self._owned.partitions:
            self.found_nothing = self._repeats
            return Batch()
        untried = self._untried()
        tried = self._tried(beside=untried) if self._repeats else _Heads()
        self.found_nothing = self._repeats and not (untried or tried)
        rows, is_cut = self._read(untried.ids | tried.ids)
        if is_cut and untried and tried:  # these would go first by their ids
            rows, _ = self._read(untried.ids)
        return Batch(rows=rows)

    def advance(self, batch: Batch, report: Report) -> None:
        """If no event was delivered, let the next probe send others."""
        if not report.published:
            self._owned.doubts.mark_tried(batch.send)

    def _read(self, ids: set[int]) -> tuple[Sequence[PendingRow], bool]:
        """Return rows, and whether some were left out for their size."""
        if not ids:
            return [], False
        found, left_out = self._owned.fetcher.fetch_fitting(self._owned.partitions, ids)
        return found.rows, bool(left_out)

    def _untried(self) -> _Heads:
        """Pick among the events that were not tried.

        Without a start a key with many events would be read as a whole by each probe. The start
        only shows whether there is something new: a transaction that committed late may have
        left an earlier event of the same key below it.
        """
        owned, doubts = self._owned, self._owned.doubts
        if self._repeats:
            doubts.scan_again()
        start = doubts.start
        if start and not owned.rows.heads(owned.partitions, start, 1, *doubts.tried):
            return _Heads()
        last = owned.rows.last_id()
        began = self._clock()
        heads = self._pick(self._limit, *doubts.tried)
        if not heads:
            doubts.found_none_up_to(last, seconds=self._clock() - began)
        return heads

    def _tried(self, *, beside: _Heads) -> _Heads:
        """Pick among all events, as far as those `beside` them leave room."""
        if not beside:
            self._owned.doubts.start_over()
        keys = {head.partition_key for head in beside.free if head.partition_key}
        room = self._limit - len(beside.free)
        return self._pick(room, keys, {head.id for head in beside.free})

    def _pick(self, room: int, keys: set[str], ids: set[int]) -> _Heads:
        """Return the first event of each of some keys.

        None is of these keys or rows, which are added to.
        """
        owned = self._owned
        heads = _Heads()
        for _ in range(room + PICKS):
            left = room - len(heads.free)
            found = owned.rows.heads(owned.partitions, 0, left, keys, ids) if left else []
            for head in found:
                if head.partition_key not in keys:
                    (heads.blocked if owned.blocked.blocks(head) else heads.free).append(head)
                if head.partition_key:
                    keys.add(head.partition_key)
                else:
                    ids.add(head.id)
            if len(found) < left or not left:
                break
        return heads


@dataclass(slots=True)
class _Heads:
    """The first pending events of some keys: those that may be sent, and those that must wait."""

    free: list[Head] = field(default_factory=list)
    blocked: list[Head] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.free or self.blocked)

    @property
    def ids(self) -> set[int]:
        return {head.id for head in self.free + self.blocked}
