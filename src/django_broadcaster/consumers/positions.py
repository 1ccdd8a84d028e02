"""Positions of sources that are stored in the database, in the transaction of each batch.

A broker keeps the position up to which a group has read. A receiver that crashes between the commit
of a batch and its acknowledgement reads the batch again. With its position in the database it does
not.

Each source, such as a partition, has a row. A receiver that is given a source takes its row: the
row's epoch grows, which fences the receiver that had the source before. That one's batch is then
written without the messages of the source, and the position does not move back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from django.db import models, transaction
from django.db.models import Case, F, Q, Value, When

from django_broadcaster.models import OutboxPosition

MOST_SOURCES: Final = 100
"""The sources of one statement: SQLite limits the depth of its conditions."""


@dataclass(slots=True, eq=False)
class Source:
    """A source that a receiver has taken.

    Args:
        name: The name, which no other source of the consumer has.
        row: The id of its row.
        epoch: The epoch of this receiver.
        position: Where to begin; None if none is stored.
        is_held: Whether the broker has not given it to another receiver, as far as is known.
    """

    name: str
    row: int
    epoch: int
    position: int | None
    is_held: bool = True


class Position(NamedTuple):
    """The position in a source after a message."""

    source: Source
    after: int


TakeSources = Callable[[Collection[str]], Sequence[Source]]
"""Takes sources by their names, for a consumer that has just been given them."""


class SourcesLost(Exception):
    """Other receivers have taken these sources."""

    def __init__(self, sources: Collection[Source]) -> None:
        super().__init__("other receivers took " + ", ".join(each.name for each in sources))
        self.sources = sources


class Positions:
    """The rows of one consumer's sources.

    Args:
        using: The alias of the outbox's database.
        consumer: The alias of the consumer.
    """

    def __init__(self, using: str, consumer: str) -> None:
        self._using = using
        self._consumer = consumer

    def take(self, names: Collection[str], begin: Callable[[], None]) -> Sequence[Source]:
        """Take sources; wait for the batch that the receiver before is writing.

        Args:
            names: Their names.
            begin: Statements for the beginning of the transaction.
        """
        rows = self._rows().filter(consumer=self._consumer, source__in=names)
        missing = {*names}.difference(rows.values_list("source", flat=True))
        new = [OutboxPosition(consumer=self._consumer, source=name) for name in sorted(missing)]
        self._rows().bulk_create(new, ignore_conflicts=True)
        with transaction.atomic(using=self._using):
            begin()
            rows.update(epoch=F("epoch") + 1)
            found = list(rows.values_list("source", "pk", "epoch", "position"))
        return [Source(*each) for each in found]

    def move(self, ends: Mapping[Source, int]) -> None:
        """Store the positions, as a part of the transaction that writes the messages before them.

        Raises:
            SourcesLost: Other receivers have taken some of the sources; the transaction must be
                rolled back.
        """
        lost: list[Source] = []
        every = list(ends)
        for start in range(0, len(every), MOST_SOURCES):
            sources = every[start : start + MOST_SOURCES]
            ours = Q(*((Q(pk=each.row, epoch=each.epoch)) for each in sources), _connector=Q.OR)
            rows = self._rows().filter(ours)
            cases = [When(pk=each.row, then=Value(ends[each])) for each in sources]
            if rows.update(position=Case(*cases)) < len(sources):
                held = set(rows.values_list("pk", flat=True))
                lost += [each for each in sources if each.row not in held]
        if lost:
            raise SourcesLost(lost)

    def _rows(self) -> models.QuerySet[OutboxPosition]:
        return OutboxPosition.objects.using(self._using)
