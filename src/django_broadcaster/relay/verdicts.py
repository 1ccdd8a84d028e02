"""The verdicts on the rows of a delivery, and the delivery in figures."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

from django_broadcaster.exceptions import BackendUnavailable, DeliveryError, TransientError
from django_broadcaster.store import PendingRow

from .doubts import Unavailable


@dataclass(slots=True)
class Verdicts:
    """The verdicts on the rows of a delivery. Rows that are in no list stay pending."""

    published: list[PendingRow] = field(default_factory=list)
    retry: list[tuple[PendingRow, float, DeliveryError]] = field(default_factory=list)
    dead_letter: list[tuple[PendingRow, DeliveryError]] = field(default_factory=list)
    hold: list[PendingRow] = field(default_factory=list)
    expire: list[PendingRow] = field(default_factory=list)
    postponed: list[tuple[str, int]] = field(default_factory=list)
    """Ids of rows to retry that were not sent, each after its destination that is unavailable."""
    unavailable: BackendUnavailable | None = None
    first_unavailable: Unavailable | None = None
    """The first event that was sent and failed as if the broker were unavailable, with its error"""

    @property
    def rows(self) -> list[PendingRow]:
        """All rows of which something becomes."""
        retried, dead = [each[0] for each in self.retry], [each[0] for each in self.dead_letter]
        return [*self.published, *retried, *dead, *self.hold, *self.expire]

    def of_rows(self, ids: Collection[int]) -> Verdicts:
        """Return the verdicts on these rows alone, without the payloads of the rows."""
        bare = PendingRow.without_payload
        return Verdicts(
            published=[bare(row) for row in self.published if row.id in ids],
            retry=[(bare(row), delay, error) for row, delay, error in self.retry if row.id in ids],
            dead_letter=[(bare(row), error) for row, error in self.dead_letter if row.id in ids],
            hold=[bare(row) for row in self.hold if row.id in ids],
            expire=[bare(row) for row in self.expire if row.id in ids],
        )

    def with_others(self, others: Verdicts) -> Verdicts:
        """Return these verdicts and those on other rows."""
        return Verdicts(
            published=self.published + others.published,
            retry=self.retry + others.retry,
            dead_letter=self.dead_letter + others.dead_letter,
            hold=self.hold + others.hold,
            expire=self.expire + others.expire,
        )


@dataclass(frozen=True, slots=True)
class Report:
    """A delivery in figures.

    `left` counts rows that are still pending. `handed` counts the events that the backend was
    given: not those that can't be decrypted. `failed` counts dead letters, and `held` the rows that
    became blocked. `keys_done` are the keys of events that their keys no longer wait for.
    `latencies` are the seconds that published events had been due, in a delivery that is timed.
    `is_repeat` is True if all that was sent had failed before as if the broker were unavailable.
    """

    left: int = 0
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
    latencies: tuple[float, ...] = ()

    @classmethod
    def of(
        cls,
        verdicts: Verdicts,
        *,
        fetched: int,
        attempted: int,
        handed: int,
        is_repeat: bool,
        due_since: Mapping[int, datetime],
    ) -> Self:
        """Return the figures of a delivery; `due_since` is since when rows had been due, by id."""
        done = [*verdicts.published, *verdicts.expire, *(row for row, _ in verdicts.dead_letter)]
        return cls(
            left=fetched - len(done) - len(verdicts.retry) - len(verdicts.hold),
            attempted=attempted,
            handed=handed,
            published=len(verdicts.published),
            retried=len(verdicts.retry),
            failed=len(verdicts.dead_letter),
            held=len(verdicts.hold),
            expired=len(verdicts.expire),
            unavailable=verdicts.unavailable,
            is_repeat=is_repeat,
            keys_done=frozenset(row.partition_key for row in done),
            latencies=_latencies(verdicts, due_since),
        )

    @property
    def settled(self) -> int:
        """How many rows left `pending`."""
        return self.published + self.retried + self.failed + self.held + self.expired

    @property
    def found_work(self) -> bool:
        """Whether there was anything to deliver."""
        return bool(self.attempted or self.settled)


def _latencies(verdicts: Verdicts, due_since: Mapping[int, datetime]) -> tuple[float, ...]:
    if not due_since:
        return ()
    now = datetime.now(UTC)
    since = (due_since.get(row.id) for row in verdicts.published)
    return tuple(max(0.0, (now - moment).total_seconds()) for moment in since if moment)


def spends_retry(error: DeliveryError) -> bool:
    """Return True if a failed attempt counts as one of the event's retries."""
    return not isinstance(error, TransientError) or error.spends_retry
