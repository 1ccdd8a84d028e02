"""The health of the outbox as its database shows it, and the view that tells it over HTTP.

============ ==========================================================================
check        fails if
============ ==========================================================================
`database`   it can't be asked; then there are no other checks
`relays`     no relay of the backend has had a heartbeat within `OUTBOX_LEASE_SECONDS`
`lag`        an event of it has been due for longer than `OUTBOX_MAX_LAG_SECONDS`
`retry`      an event published longer ago than `OUTBOX_MAX_RETRY_AGE_SECONDS` is in retry
`settings`   events wait for it, and `OUTBOX_PUBLISHERS` does not have it
============ ==========================================================================

A backend that an operator has paused fails none of them. Partitions without a relay are counted in
the detail and fail nothing by themselves: for a moment there are some whenever a relay comes or
goes, and if it lasts, their events are late.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import timedelta
from typing import NamedTuple

from django.db import Error, models, router, transaction
from django.http import HttpRequest, JsonResponse

from django_broadcaster.backends.handler import backends
from django_broadcaster.conf import conf
from django_broadcaster.models import OutboxEvent, OutboxPartition, OutboxRelay
from django_broadcaster.models.managers import DatabaseNow
from django_broadcaster.relay.health import Check, Health
from django_broadcaster.store import MIGRATE, Overview, lacks_migration, overviews, with_leftovers

OK, UNWELL = 200, 503


def outbox_health(
    using: str | None = None,
    aliases: Collection[str] | None = None,
    max_lag: float | None = None,
    max_retry_age: float | None = None,
) -> Health:
    """Return the health of these backends, by default of all, also of those no longer configured.

    `max_lag` and `max_retry_age` are in seconds, by default those of the settings. Never raises the
    database's errors.
    """
    bounds = _Bounds(
        lag=conf.MAX_LAG_SECONDS if max_lag is None else max_lag,
        retry_age=conf.MAX_RETRY_AGE_SECONDS if max_retry_age is None else max_retry_age,
    )
    try:
        using = using or router.db_for_read(OutboxEvent)
        aliases = aliases or with_leftovers(using, backends.aliases())
        return Health(tuple(_checks(using, aliases, bounds)))
    except Error as error:
        reason = MIGRATE if lacks_migration(error) else type(error).__name__
        detail = f"it can't be asked: {reason}"
        return Health((Check(name="database", ok=False, detail=detail),))


@transaction.non_atomic_requests  # ATOMIC_REQUESTS would fail before it can tell why
def health(request: HttpRequest) -> JsonResponse:
    """Answer with 200 if the outbox is well, else with 503; the checks are in the body, as JSON.

    It asks nobody who they are, and shows aliases and figures: let only the monitoring reach it, or
    wrap it. It is not for the liveness probe of a web process, which no late event is to restart.
    """
    found = outbox_health()
    answer = JsonResponse(found.as_dict(), status=OK if found.is_ready else UNWELL)
    answer["Cache-Control"] = "no-store"
    return answer


class _Bounds(NamedTuple):
    """How many seconds are allowed."""

    lag: float
    retry_age: float


def _checks(using: str, aliases: Collection[str], bounds: _Bounds) -> Iterator[Check]:
    yield Check(name="database", ok=True, detail="answers")
    living = _living(using, aliases)
    free = _without_relay(using, aliases)
    configured = backends.aliases()
    for each in overviews(using, aliases):
        if each.backend in configured:
            relays, unowned = living.get(each.backend, 0), free.get(each.backend, 0)
            yield from _backend(each, relays, unowned, bounds)
        elif each.undelivered:
            detail = f"{each.undelivered} events wait, and OUTBOX_PUBLISHERS does not have it"
            yield Check(name="settings", ok=False, detail=detail, backend=each.backend)


def _backend(each: Overview, relays: int, free: int, bounds: _Bounds) -> Iterator[Check]:
    if each.is_paused:
        # By whom and why is for those who are logged in: this is told to whoever asks.
        yield Check(name="relays", ok=True, detail=f"{relays}, paused", backend=each.backend)
        return
    detail = f"{relays}, {free} partitions without one" if free else str(relays)
    yield Check(name="relays", ok=relays > 0, detail=detail, backend=each.backend)
    for name, age, bound in (
        ("lag", each.lag, bounds.lag),
        ("retry", each.retry_age, bounds.retry_age),
    ):
        detail = f"{age:.1f} s, {bound:g} s are allowed"
        yield Check(name=name, ok=age <= bound, detail=detail, backend=each.backend)


def _living(using: str, aliases: Collection[str]) -> dict[str, int]:
    """Return how many relays of each backend have a fresh heartbeat, by the database's clock."""
    relays = OutboxRelay.objects.using(using).filter(
        backend__in=aliases, heartbeat_at__gte=_oldest()
    )
    return _counted(relays.filter(takes_share=True))


def _without_relay(using: str, aliases: Collection[str]) -> dict[str, int]:
    """Return how many partitions of each backend belong to no living relay."""
    unowned = models.Q(relay=None) | models.Q(relay__heartbeat_at__lt=_oldest())
    rows = OutboxPartition.objects.using(using).filter(
        backend__in=aliases, number__lt=conf.PARTITIONS
    )
    return _counted(rows.filter(unowned))


def _oldest() -> models.Expression:
    seconds = models.Value(timedelta(seconds=float(conf.LEASE_SECONDS)), models.DurationField())
    return DatabaseNow() - seconds


def _counted(
    rows: models.QuerySet[OutboxRelay] | models.QuerySet[OutboxPartition],
) -> dict[str, int]:
    counted = rows.order_by().values_list("backend").annotate(models.Count("pk"))
    return dict(counted)
