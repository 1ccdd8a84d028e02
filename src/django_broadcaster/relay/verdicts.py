"""What came of a delivery: the verdicts, their sum for the log, and the signals for who listens."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

from django_broadcaster.exceptions import BackendUnavailable, DeliveryError, TransientError
from django_broadcaster.store import PendingRow

from .doubts import Unavailable

logger = logging.getLogger("django_broadcaster.relay")


@dataclass(slots=True)
class Verdicts:
    """What is to become of the rows of a delivery. Rows that are in no list stay pending."""

    published: list[PendingRow] = field(default_factory=list)
    retry: list[tuple[PendingRow, float, DeliveryError]] = field(default_factory=list)
    bury: list[tuple[PendingRow, DeliveryError]] = field(default_factory=list)
    hold: list[PendingRow] = field(default_factory=list)
    expire: list[PendingRow] = field(default_factory=list)
    unavailable: BackendUnavailable | None = None
    first_unavailable: Unavailable | None = None
    """The first event that was sent and failed as if the broker were away, with its error."""
    due: Mapping[int, datetime] = field(default_factory=dict)
    """Since when rows have been due, by id, in a delivery that is timed."""
    are_noted: bool = False
    """Whether the attempts that failed have been written down, which is not to be repeated."""

    @property
    def rows(self) -> list[PendingRow]:
        """All rows that something is to become of."""
        retried, given_up = [each[0] for each in self.retry], [each[0] for each in self.bury]
        return [*self.published, *retried, *given_up, *self.hold, *self.expire]

    def of_rows(self, ids: Collection[int]) -> Verdicts:
        """Return the verdicts on these rows alone."""
        return Verdicts(
            published=[row for row in self.published if row.id in ids],
            retry=[each for each in self.retry if each[0].id in ids],
            bury=[each for each in self.bury if each[0].id in ids],
            hold=[row for row in self.hold if row.id in ids],
            expire=[row for row in self.expire if row.id in ids],
        )

    def without_payloads(self) -> Verdicts:
        """Return the same verdicts on rows whose payloads are left out."""
        return Verdicts(
            published=[_bare(row) for row in self.published],
            retry=[(_bare(row), delay, error) for row, delay, error in self.retry],
            bury=[(_bare(row), error) for row, error in self.bury],
            hold=[_bare(row) for row in self.hold],
            expire=[_bare(row) for row in self.expire],
        )

    def add(self, others: Verdicts) -> None:
        """Take verdicts on other rows over."""
        for name in ("published", "retry", "bury", "hold", "expire"):
            getattr(self, name).extend(getattr(others, name))

    def failed_ids(self) -> set[int]:
        """Return the ids of the rows whose attempt failed."""
        return {row.id for row, _, _ in self.retry} | {row.id for row, _ in self.bury}


def _bare(row: PendingRow) -> PendingRow:
    return row._replace(data=None, data_binary=None, sealed=None)


@dataclass(frozen=True, slots=True)
class Report:
    """A delivery in figures.

    `left` counts fetched rows that are still pending, `last` is the last id that was fetched, and
    `exhausted` says that nothing was pending behind it. `keys_done` are keys of events that are
    out of their key's way, `gone` ids that were asked for and are not pending, and `unseen` those
    that a batch of this size left out. `waits` are the seconds that published events had been due,
    in a delivery that is timed. `is_repeat` says that all that was sent had failed before as if the
    broker were away. `handed` counts the events that reached the backend: not those without a key.
    """

    left: int = 0
    last: int = 0
    exhausted: bool = True
    attempted: int = 0
    handed: int = 0
    published: int = 0
    retried: int = 0
    failed: int = 0
    held: int = 0
    expired: int = 0
    unavailable: BackendUnavailable | None = None
    is_repeat: bool = False
    keys_done: frozenset[str] = frozenset()
    gone: frozenset[int] = frozenset()
    unseen: frozenset[int] = frozenset()
    waits: tuple[float, ...] = ()

    @classmethod
    def of(cls, verdicts: Verdicts, attempted: int) -> Self:
        """Sum up the verdicts of a delivery that attempted so many events."""
        done = [*verdicts.published, *verdicts.expire, *(row for row, _ in verdicts.bury)]
        return cls(
            attempted=attempted,
            published=len(verdicts.published),
            retried=len(verdicts.retry),
            failed=len(verdicts.bury),
            held=len(verdicts.hold),
            expired=len(verdicts.expire),
            unavailable=verdicts.unavailable,
            keys_done=frozenset(row.partition_key for row in done),
            waits=_waits(verdicts),
        )

    @property
    def settled(self) -> int:
        """How many rows left `pending`."""
        return self.published + self.retried + self.failed + self.held + self.expired

    @property
    def found_work(self) -> bool:
        """Whether there was anything to deliver."""
        return bool(self.attempted or self.settled)


def _waits(verdicts: Verdicts) -> tuple[float, ...]:
    if not verdicts.due:
        return ()
    now = datetime.now(UTC)
    due = [verdicts.due.get(row.id) for row in verdicts.published]
    return tuple(max(0.0, (now - since).total_seconds()) for since in due if since)


def spends_retry(error: DeliveryError) -> bool:
    """Tell whether a failed attempt counts as one of those that the event has."""
    return not isinstance(error, TransientError) or error.spends_retry
