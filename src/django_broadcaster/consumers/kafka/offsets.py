"""Which offsets can be committed: those up to the first record that is not acknowledged."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from django_broadcaster.backends.kafka.address import client_class
from django_broadcaster.consumers.positions import Source


def place(topic: str, number: int, offset: int | None = None) -> Any:
    """Return a partition, and an offset in it, as the client takes them."""
    kind = client_class("TopicPartition")
    return kind(topic, number) if offset is None else kind(topic, number, offset)


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
    def place(self) -> Any:
        """The partition as the client takes it."""
        return place(self.topic, self.number)

    @property
    def begin(self) -> Any:
        """The partition with the offset where to begin; Kafka's own, if the database has none."""
        position = self.source.position if self.source is not None else None
        return place(self.topic, self.number, position)

    @property
    def to_commit(self) -> int | None:
        """The offset to commit; None if it was committed already."""
        return self.next if self.next != self.committed else None


class Receipt(NamedTuple):
    """The partition and the offset of a record, to acknowledge it."""

    partition: Partition
    offset: int


def to_commit(partitions: Iterable[Partition]) -> list[Any]:
    """Return the offsets that are not committed yet, as the client takes them."""
    return [
        place(each.topic, each.number, each.to_commit)
        for each in partitions
        if each.to_commit is not None
    ]
