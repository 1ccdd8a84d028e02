"""The one value that goes through a delivery."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from django_broadcaster.backends.base import Outcome
from django_broadcaster.store import PendingRow

from .verdicts import Report, Verdicts

NONE: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of one backend; each step of a delivery returns it with what the step found.

    Fetch: `rows`, and `due_since` by their ids, where the delivery is timed. `below` are ids below
    the watermark that were asked for, `left_out` those of them that the size of the batch excluded.
    `last_id` is the last id that was fetched from the watermark on, and `exhausted` is True if
    nothing was pending after it.

    Select: the rows to `send`, to `hold` because an earlier event of their key waits, to give up
    as `poison`, and those that `expired`. `is_repeat` is True if everything to send failed before
    as if the broker were unavailable.

    Send: one of `outcomes` for each row to send; the number of rows that the backend was `handed`.

    Judge: the `verdicts`, and how many of them are about `others`, rows that were not fetched.
    """

    rows: Sequence[PendingRow] = ()
    due_since: Mapping[int, datetime] = field(default_factory=dict)
    below: Collection[int] = ()
    left_out: frozenset[int] = NONE
    last_id: int = 0
    exhausted: bool = True

    send: Sequence[PendingRow] = ()
    hold: Sequence[PendingRow] = ()
    poison: Sequence[PendingRow] = ()
    expired: Sequence[PendingRow] = ()
    is_repeat: bool = False

    outcomes: Sequence[Outcome] = ()
    handed: int = 0

    verdicts: Verdicts = field(default_factory=Verdicts)
    others: int = 0
    attempts_are_recorded: bool = False
    """Whether the failed attempts have been written, which must not be repeated."""

    @property
    def has_suspect(self) -> bool:
        """Whether the event to send was in flight when its relay crashed; it is the only one."""
        return bool(self.send and self.send[0].crash_count)

    def report(self) -> Report:
        """Return the delivery in figures."""
        return Report.of(
            self.verdicts,
            fetched=len(self.rows) + self.others,
            attempted=len(self.send),
            handed=self.handed,
            is_repeat=self.is_repeat,
            due_since=self.due_since,
        )


class Source(Protocol):
    """Where the rows of a delivery come from."""

    def fetch(self) -> Batch:
        """Return a batch of rows."""

    def advance(self, batch: Batch, report: Report) -> None:
        """Move on, by what became of the batch."""
