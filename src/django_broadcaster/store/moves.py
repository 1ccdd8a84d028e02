"""Kinds of operations on many events, which a command or the relays run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Protocol

from django_broadcaster.models.managers import OutboxEventQuerySet
from django_broadcaster.states import FINAL, OperationKind, OutboxEventStatus, sources_of


class Run(Protocol):
    """A function that changes the eligible ones of some events, and returns how many.

    `by` is the person who wants it, for the history of each event.
    """

    def __call__(
        self,
        events: OutboxEventQuerySet,
        *,
        at: datetime | None = None,
        operation: int | None = None,
        by: str = "",
    ) -> int: ...


@dataclass(frozen=True, slots=True)
class Move:
    """A kind of operation, with the statuses of eligible events.

    `run` is None for a purge, which may need an archive.
    """

    sources: tuple[OutboxEventStatus, ...]
    run: Run | None


def _retry(
    events: OutboxEventQuerySet,
    *,
    at: datetime | None = None,
    operation: int | None = None,
    by: str = "",
) -> int:
    # Replay dead letters only: an event in retry may have been delivered in the meantime.
    replayed = events.dead_letters().replay(at=at, operation=operation, by=by)
    return replayed + events.hasten(at=at, operation=operation, by=by)


def _cancel(
    events: OutboxEventQuerySet,
    *,
    at: datetime | None = None,
    operation: int | None = None,
    by: str = "",
) -> int:
    return events.cancel(operation=operation, by=by)


def _replay(
    events: OutboxEventQuerySet,
    *,
    at: datetime | None = None,
    operation: int | None = None,
    by: str = "",
) -> int:
    return events.replay(at=at, operation=operation, by=by)


MOVES: Mapping[str, Move] = MappingProxyType(
    {
        OperationKind.RETRY: Move((OutboxEventStatus.FAILED, OutboxEventStatus.RETRY), _retry),
        OperationKind.CANCEL: Move(sources_of(OutboxEventStatus.CANCELLED), _cancel),
        OperationKind.REPLAY: Move(sources_of(OutboxEventStatus.SCHEDULED), _replay),
        OperationKind.PURGE: Move(FINAL, None),
    }
)
"""The move of each kind of operation."""
