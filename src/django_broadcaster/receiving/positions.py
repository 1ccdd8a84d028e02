"""The rows of sources whose positions are in the database (see `consumers.positions`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from django.db import OperationalError, models, transaction
from django.db.models import Case, F, Q, Value, When

from django_broadcaster.consumers.positions import Source
from django_broadcaster.models import OutboxPosition

MOST_SOURCES: Final = 100
"""The sources of one statement: SQLite limits the depth of its conditions."""


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

        Raises the database's errors; the sources are taken again then.

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
        if len(found) < len({*names}):
            raise OperationalError("rows of positions were deleted while they were taken")
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
