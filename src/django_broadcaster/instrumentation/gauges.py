"""What stands in the outbox, as figures that every kind of metrics can show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from django.db import DatabaseError, InterfaceError, router

from django_broadcaster.backends.handler import backends
from django_broadcaster.models import OutboxEvent
from django_broadcaster.store import Overview, overviews, with_leftovers

STATUSES: Final = ("pending", "scheduled", "retry", "blocked", "failed")

UP: Final = "1 if the database could be asked."


class Figure(NamedTuple):
    """One figure of each backend.

    `name` and `meaning` are as Prometheus wants them, and `unit` is in UCUM. `labels` are those
    beside the backend. `read` yields the values of the labels, and the figure.
    """

    name: str
    meaning: str
    unit: str
    labels: tuple[str, ...]
    read: Callable[[Overview], Iterator[tuple[tuple[str, ...], float]]]


def look(using: str | None = None) -> list[Overview] | None:
    """Ask the database about every backend that has events; None if it gives no answer."""
    try:
        using = using or router.db_for_read(OutboxEvent)
        return list(overviews(using, with_leftovers(using, backends.aliases())))
    except (DatabaseError, InterfaceError):
        return None


def labelled(figure: Figure, overview: Overview) -> Iterator[tuple[Mapping[str, str], float]]:
    """Yield a backend's figure with all of its labels."""
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
    """Return what relays have for backends that are configured; no others have any."""
    return lambda overview: iter(
        [((), read(overview))] if overview.backend in backends.aliases() else []
    )


FIGURES: Final = (
    Figure(
        "outbox_backlog", "Events that wait, and dead letters.", "{event}", ("status",), _backlog
    ),
    Figure(
        "outbox_lag_seconds",
        "The longest that an event has been due.",
        "s",
        (),
        _one(lambda overview: overview.lag),
    ),
    Figure(
        "outbox_retry_age_seconds",
        "How long ago the oldest event in retry was published.",
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
        "Partitions that nobody delivers.",
        "{partition}",
        (),
        _of_relays(lambda overview: overview.free_partitions),
    ),
    Figure(
        "outbox_circuit_open",
        "1 while a relay counts its broker as away.",
        "1",
        (),
        _one(lambda overview: int(overview.away_since is not None)),
    ),
    Figure(
        "outbox_paused",
        "1 while an operator has paused it.",
        "1",
        (),
        _one(lambda overview: int(overview.is_paused)),
    ),
)
