"""The gauges of the outbox, for every kind of metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from django.db import DatabaseError, InterfaceError, router

from django_broadcaster.backends.handler import backends
from django_broadcaster.consumers.handler import consumers
from django_broadcaster.models import OutboxEvent
from django_broadcaster.store import (
    ConsumerJudgement,
    ConsumerState,
    Judgement,
    Overview,
    Slot,
    State,
    consumer_judgements,
    judgements,
    with_leftovers,
)

STATUSES: Final = ("pending", "scheduled", "retry", "blocked", "failed")

UP: Final = "1 if the database is available."


Values = Iterator[tuple[tuple[str, ...], float]]
"""Values of labels, each with the value of the gauge."""

Reader = Callable[[Any], Values]


class Figure(NamedTuple):
    """One gauge, with a value for each backend or consumer.

    `name` and `meaning` are for Prometheus, `unit` is in UCUM. `labels` are the labels besides
    `subject`, which is `backend` or `consumer`. `read` is given the judgement on one, and yields
    values of these labels, each with the value of the gauge.
    """

    name: str
    meaning: str
    unit: str
    labels: tuple[str, ...]
    read: Reader
    subject: str = "backend"


Judgements = list[Judgement | ConsumerJudgement]


def current_judgements(using: str | None = None) -> Judgements | None:
    """Return the judgement on every backend and consumer; None if the database is unavailable."""
    try:
        using = using or router.db_for_read(OutboxEvent)
        configured = backends.aliases()
        return [
            *judgements(using, with_leftovers(using, configured), configured, backends.slots()),
            *consumer_judgements(using, consumers.aliases()),
        ]
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


def labelled(
    figure: Figure, judgement: Judgement | ConsumerJudgement
) -> Iterator[tuple[Mapping[str, str], float]]:
    """Yield the values of a gauge, each with all labels; none if it is not of this subject."""
    if isinstance(judgement, ConsumerJudgement):
        subject, alias = "consumer", judgement.consumer
    else:
        subject, alias = "backend", judgement.overview.backend
    for values, value in figure.read(judgement) if subject == figure.subject else ():
        yield {subject: alias, **dict(zip(figure.labels, values, strict=True))}, value


def _backlog(judgement: Judgement) -> Values:
    for status in STATUSES:
        yield (status,), getattr(judgement.overview, status)


def _states(judgement: Judgement) -> Values:
    for state in State:
        yield (state,), int(state == judgement.state)


def _one(read: Callable[[Overview], float]) -> Reader:
    return lambda judgement: iter([((), read(judgement.overview))])


def _of_relays(read: Callable[[Overview], float]) -> Reader:
    """Return a reader that yields nothing for backends that are not configured."""
    return lambda judgement: iter(
        [((), read(judgement.overview))] if judgement.facts.is_configured else []
    )


def _of_slot(read: Callable[[Slot], float]) -> Reader:
    """Return a reader that yields nothing for backends without a replication slot."""

    def values(judgement: Judgement) -> Values:
        if judgement.facts.slot is not None:
            yield (), read(judgement.facts.slot)

    return values


def _consumer_states(judgement: ConsumerJudgement) -> Values:
    for state in ConsumerState:
        yield (state,), int(state == judgement.state)


def _of_consumer(read: Callable[[ConsumerJudgement], float | None]) -> Reader:
    """Return a reader that yields nothing where the figure is None."""

    def values(judgement: ConsumerJudgement) -> Values:
        value = read(judgement)
        if value is not None:
            yield (), value

    return values


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
    Figure(
        "outbox_slot_lag_bytes",
        "WAL that Kafka Connect has not confirmed.",
        "By",
        (),
        _of_slot(lambda slot: slot.lag),
    ),
    Figure(
        "outbox_slot_retained_bytes",
        "WAL that the server keeps for the replication slot.",
        "By",
        (),
        _of_slot(lambda slot: slot.retained),
    ),
    Figure(
        "outbox_slot_active",
        "1 while Kafka Connect reads the replication slot.",
        "1",
        (),
        _of_slot(lambda slot: int(slot.is_active)),
    ),
    Figure(
        "outbox_backend_state",
        "1 for the state that the backend is in, 0 for the others.",
        "1",
        ("state",),
        _states,
    ),
    Figure(
        "outbox_consumer_lag",
        "Messages that wait at the broker.",
        "{message}",
        (),
        _of_consumer(lambda judgement: judgement.lag),
        "consumer",
    ),
    Figure(
        "outbox_receivers",
        "Receivers with a recent heartbeat.",
        "{receiver}",
        (),
        _of_consumer(lambda judgement: judgement.receivers),
        "consumer",
    ),
    Figure(
        "outbox_consumer_state",
        "1 for the state that the consumer is in, 0 for the others.",
        "1",
        ("state",),
        _consumer_states,
        "consumer",
    ),
)
