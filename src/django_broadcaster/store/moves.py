"""What can be done to many events: by a command at once, or by the relays as an operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Protocol

from django_broadcaster.models.managers import OutboxEventQuerySet
from django_broadcaster.states import FINAL, OperationKind, OutboxEventStatus, sources_of


class Run(Protocol):
    """Does it to events of any state, as far as it may be done to them; returns to how many."""

    def __call__(
        self,
        events: OutboxEventQuerySet,
        *,
        at: datetime | None = None,
        operation: int | None = None,
    ) -> int: ...


@dataclass(frozen=True, slots=True)
class Move:
    """One thing that can be done, and the statuses of events in which it can be done to them.

    `run` is None for a purge: rows know no archive, which events may have to go through.
    """

    sources: tuple[OutboxEventStatus, ...]
    run: Run | None


def _retry(
    events: OutboxEventQuerySet, *, at: datetime | None = None, operation: int | None = None
) -> int:
    # Of the dead letters alone: what waited for a retry may have been delivered meanwhile.
    replayed = events.dead_letters().replay(at=at, operation=operation)
    return replayed + events.hasten(at=at, operation=operation)


def _cancel(
    events: OutboxEventQuerySet, *, at: datetime | None = None, operation: int | None = None
) -> int:
    return events.cancel(operation=operation)


def _replay(
    events: OutboxEventQuerySet, *, at: datetime | None = None, operation: int | None = None
) -> int:
    return events.replay(at=at, operation=operation)


MOVES: Mapping[str, Move] = MappingProxyType(
    {
        OperationKind.RETRY: Move((OutboxEventStatus.FAILED, OutboxEventStatus.RETRY), _retry),
        OperationKind.CANCEL: Move(sources_of(OutboxEventStatus.CANCELLED), _cancel),
        OperationKind.REPLAY: Move(sources_of(OutboxEventStatus.SCHEDULED), _replay),
        OperationKind.PURGE: Move(FINAL, None),
    }
)
"""Each kind of operation, and what it does."""
