"""Blocked keys: while an event waits for a retry, the later events of its key wait, too."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from django_broadcaster.store import Head, PendingRow, RelayRows


class BlockedKeys:
    """Each blocked key with the id of its first event that waits.

    This is a cache of the rows. It is valid because only the owner of a partition blocks a key.
    Pending events of a key with lower ids are sent, such as one that is retried; all others wait.
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
        """Return True if an earlier event of the row's key waits."""
        key = row.partition_key
        first = min(self._first.get(key, row.id), self._locked.get(key, row.id))
        return first < row.id

    def set_locked(self, rows: Iterable[PendingRow]) -> None:
        """Let keys wait from these locked rows on, and no other key: their rows cannot show it."""
        self._locked = {}
        for row in rows:
            if row.partition_key:
                first = self._locked.get(row.partition_key, row.id)
                self._locked[row.partition_key] = min(first, row.id)
        self._rows.held_keys = self._locked.keys()

    def add(self, rows: Iterable[PendingRow]) -> None:
        """Let the keys of rows wait from these rows on; rows without a key hold no other."""
        for row in rows:
            if row.partition_key:
                first = self._first.get(row.partition_key, row.id)
                self._first[row.partition_key] = min(first, row.id)

    def reload(self, partitions: Collection[int]) -> None:
        """Read all blocked keys again: partitions changed, or an operator changed events."""
        self._first = self._rows.waiting_keys(partitions)

    def refresh(self, partitions: Collection[int], keys: Iterable[str]) -> None:
        """Read these keys again, after some of their events were made pending."""
        wanted = {key for key in keys if key}
        if wanted:
            for key in wanted:
                self._first.pop(key, None)
            self._first.update(self._rows.waiting_keys(partitions, wanted))
