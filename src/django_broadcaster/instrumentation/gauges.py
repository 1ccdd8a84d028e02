"""The gauges of the outbox, for every kind of metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from django.db import DatabaseError, InterfaceError, router

from django_broadcaster.backends.handler import backends
from django_broadcaster.models import OutboxEvent
from django_broadcaster.store import Overview, overviews, with_leftovers

STATUSES: Final = ("pending", "scheduled", "retry", "blocked", "failed")

UP: Final = "1 if the database is available."


class Figure(NamedTuple):
    """One gauge, with a value for each backend.

    `name` and `meaning` are for Prometheus, `unit` is in UCUM. `labels` are the labels besides
    `backend`. `read` yields values of these labels, each with the value of the gauge.
    """

    name: str
    meaning: str
    unit: str
    labels: tuple[str, ...]
    read: Callable[[Overview], Iterator[tuple[tuple[str, ...], float]]]


def current_overviews(using: str | None = None) -> list[Overview] | None:
    """Return the overview of every backend, or None if the database is unavailable."""
    try:
        using = using or router.db_for_read(OutboxEvent)
        return list(overviews(using, with_leftovers(using, backends.aliases())))
    except (DatabaseError, InterfaceError):
        return None


def last_id(using: str | None = None) -> int | None:
    """Return the id of the newest event; None without events, or if the database is unavailable."""
    try:
        using = using or router.db_for_read(OutboxEvent)
        newest = OutboxEvent.objects.using(using).order_by("-id").values_list("id", flat=True)
        return newest.first()
    except (DatabaseError, InterfaceError):
        return None


def labelled(figure: Figure, overview: Overview) -> Iterator[tuple[Mapping[str, str], float]]:
    """Yield the values of a backend's gauge, each with all labels."""
    for values, value in figure.read(overview):
        labels = dict(zip(figure.labels, values, strict=True))
        yield {"backend": overview.backend, **labels}, value


def _backlog(overview: Overview) -> Iterator[tuple[tuple[str, ...], float]]:
    for status in STATUSES:
        yield (status,), getattr(overview, status)


def _one(
    read: Callable[[Overview], float],
) -> Callable[[Overview], Iterator[tuple[tuple[str, ...], float]]]:
    return lambda overview: iter([((), read(overview))])


def _of_relays(
    read: Callable[[Overview], float],
) -> Callable[[Overview], Iterator[tuple[tuple[str, ...], float]]]:
    """Return a reader that yields nothing for backends that are not configured."""
    return lambda overview: iter(
        [((), read(overview))] if overview.backend in backends.aliases() else []
    )


FIGURES: Final = (
    Figure(
        "outbox_backlog", "Undelivered events and dead letters.", "{event}", ("status",), _backlog
    ),
    Figure(
        "outbox_lag_seconds",
        "Age of the oldest due event.",
        "s",
        (),
        _one(lambda overview: overview.lag),
    ),
    Figure(
        "outbox_retry_age_seconds",
        "Age of the oldest event in retry, since its publication.",
        "s",
        (),
        _one(lambda overview: overview.retry_age),
    ),
    Figure(
        "outbox_relays",
        "Relays that hold a lease.",
        "{relay}",
        (),
        _of_relays(lambda overview: overview.relays),
    ),
    Figure(
        "outbox_free_partitions",
        "Partitions without a relay.",
        "{partition}",
        (),
        _of_relays(lambda overview: overview.free_partitions),
    ),
    Figure(
        "outbox_circuit_open",
        "1 while a circuit breaker is open.",
        "1",
        (),
        _one(lambda overview: int(overview.away_since is not None)),
    ),
    Figure(
        "outbox_paused",
        "1 while the backend is paused.",
        "1",
        (),
        _one(lambda overview: int(overview.is_paused)),
    ),
)
