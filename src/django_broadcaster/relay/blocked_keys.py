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

    def blocks(self, row: PendingRow | Head) -> bool:
        """Return True if an earlier event of the row's key waits."""
        key = row.partition_key
        first = min(self._first.get(key, row.id), self._locked.get(key, row.id))
        return first < row.id

    def set_locked(self, rows: Iterable[PendingRow]) -> Collection[str]:
        """Let keys wait from these locked rows on, and no others; return the keys.

        The status of locked rows cannot show that their keys wait.
        """
        self._locked = {}
        _add(self._locked, rows)
        return self._locked.keys()

    def add(self, rows: Iterable[PendingRow]) -> None:
        """Let the keys of rows wait from these rows on."""
        _add(self._first, rows)

    def reload(self, partitions: Collection[int]) -> None:
        """Read all blocked keys again: partitions changed, or an operator changed events."""
        self._first = self._rows.blocked_keys(partitions)

    def refresh(self, partitions: Collection[int], keys: Iterable[str]) -> None:
        """Read these keys again, after some of their events were made pending."""
        wanted = {key for key in keys if key}
        if wanted:
            for key in wanted:
                self._first.pop(key, None)
            self._first.update(self._rows.blocked_keys(partitions, wanted))


def _add(first: dict[str, int], rows: Iterable[PendingRow]) -> None:
    """Note the first row of each key; rows without a key block no other."""
    for row in rows:
        if key := row.partition_key:
            first[key] = min(first.get(key, row.id), row.id)
