"""Which offsets can be committed: those up to the first record that is not acknowledged."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from django_broadcaster.consumers.positions import Source


class Partition:
    """A partition, for the time in which it is assigned to this receiver.

    Kafka keeps one number for each: the offset from which its records are read again. Offsets have
    gaps, where a topic was compacted, and where a transaction ended.
    """

    def __init__(self, topic: str, number: int) -> None:
        self.topic = topic
        self.number = number
        self.is_assigned = True
        self.source: Source | None = None
        """The partition's position in the database; None if only Kafka has one."""
        self.committed: int | None = None
        """The offset that was committed last; None as long as none was."""
        self.next: int | None = None
        """The offset up to which everything is acknowledged; None until anything is known."""
        self._open: deque[int] = deque()
        self._acknowledged: set[int] = set()
        self._end = 0

    def give_up(self) -> None:
        """Note that the partition is not assigned any more."""
        self.is_assigned = False
        if self.source is not None:
            self.source.is_held = False

    def received(self, offset: int) -> None:
        """Note a record that was received; records come in order."""
        if self.next is None:
            self.next = offset
        self._open.append(offset)
        self._end = offset + 1

    def acknowledge(self, offset: int) -> None:
        """Note that a record is stored."""
        if not self._open or offset < self._open[0]:
            return
        self._acknowledged.add(offset)
        while self._open and self._open[0] in self._acknowledged:
            self._acknowledged.remove(self._open.popleft())
        self.next = self._open[0] if self._open else self._end

    def reached_end(self, offset: int) -> None:
        """Note that there are no records up to that offset, after those that were received."""
        self._end = max(self._end, offset)
        if not self._open:
            self.next = self._end

    @property
    def to_commit(self) -> int | None:
        """The offset to commit; None if it was committed already."""
        return self.next if self.next != self.committed else None


class Receipt(NamedTuple):
    """The partition and the offset of a record, to acknowledge it."""

    partition: Partition
    offset: int
