"""Which keys wait: the events of a key that stand behind one in retry must not overtake it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from django_broadcaster.store import Head, PendingRow, RelayRows


class BlockedKeys:
    """Each blocked key with the id of its first event that waits.

    The rows are the truth, this is the relay's memory of them: it owns their partitions, so
    nobody else blocks a key. Pending events of a key pass while they stand before that id, which
    lets an event go whose turn has come again, and holds everything behind it.
    """

    def __init__(self, rows: RelayRows) -> None:
        self._rows = rows
        self._first: dict[str, int] = {}
        self._locked: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._first)

    def __contains__(self, key: object) -> bool:
        return key in self._first

    def holds(self, row: PendingRow | Head) -> bool:
        """Tell whether an earlier event of the row's key waits."""
        waits = (self._first.get(row.partition_key), self._locked.get(row.partition_key))
        return any(first is not None and first < row.id for first in waits)

    def set_locked(self, rows: Iterable[PendingRow]) -> None:
        """Let keys wait from these rows on, and forget others: a locked row can't say so itself."""
        self._locked = {}
        for row in rows:
            if row.partition_key:
                first = self._locked.get(row.partition_key, row.id)
                self._locked[row.partition_key] = min(first, row.id)
        self._rows.held_keys = self._locked.keys()

    def add(self, row: PendingRow) -> None:
        """Let the row's key wait from this row on; a row without a key holds nobody up."""
        if row.partition_key:
            first = self._first.get(row.partition_key, row.id)
            self._first[row.partition_key] = min(first, row.id)

    def reload(self, partitions: Collection[int]) -> None:
        """Read all of it anew: after a change of ownership, and for what an operator changed."""
        self._first = self._rows.waiting_keys(partitions)

    def refresh(self, partitions: Collection[int], keys: Iterable[str]) -> None:
        """Read these keys anew, after some of their events were made pending."""
        wanted = {key for key in keys if key}
        if wanted:
            for key in wanted:
                self._first.pop(key, None)
            self._first.update(self._rows.waiting_keys(partitions, wanted))
