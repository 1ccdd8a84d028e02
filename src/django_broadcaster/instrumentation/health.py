"""Health checks of the outbox by its database, and the view that returns them.

============ ==========================================================================
check        fails if
============ ==========================================================================
`database`   the query fails; then there are no other checks
`relays`     no relay of the backend had a heartbeat within `OUTBOX_LEASE_SECONDS`
`lag`        an event of the backend is due for longer than `OUTBOX_MAX_LAG_SECONDS`
`retry`      an event in retry is older than `OUTBOX_MAX_RETRY_AGE_SECONDS`
`failures`   the backend is failing: most recent attempts failed, or nothing is delivered
             any more
`slot`       the replication slot of a `DebeziumBackend` does not exist, was invalidated, is not
             read, or retains more WAL than `max_wal_bytes`; also while the backend is paused
`settings`   undelivered events name a backend that is not in `OUTBOX_PUBLISHERS`
`receivers`  no receiver of the consumer had a heartbeat within `OUTBOX_LEASE_SECONDS`, none can
             read the broker, or nothing is received while the lag grows
============ ==========================================================================

A paused backend fails no check. Partitions without a relay are reported in the detail and fail no
check: some exist briefly whenever a relay starts or stops. If they persist, `lag` fails.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import timedelta
from typing import NamedTuple

from django.db import Error, models, router, transaction
from django.http import HttpRequest, JsonResponse

from django_broadcaster.amounts import size
from django_broadcaster.backends.handler import backends
from django_broadcaster.conf import conf
from django_broadcaster.consumers.handler import consumers
from django_broadcaster.models import OutboxEvent, OutboxPartition, OutboxRelay
from django_broadcaster.models.managers import DatabaseNow
from django_broadcaster.relay.health import Check, Health
from django_broadcaster.store import (
    MIGRATE,
    Judgement,
    Level,
    State,
    consumer_judgements,
    failed_of,
    judgements,
    lacks_migration,
    with_leftovers,
)

OK, UNWELL = 200, 503


def outbox_health(
    using: str | None = None,
    aliases: Collection[str] | None = None,
    max_lag: float | None = None,
    max_retry_age: float | None = None,
    receiving: Collection[str] | None = None,
) -> Health:
    """Return the health of the outbox; errors of the database are a failing check.

    Args:
        using: The database alias; by default, the router decides.
        aliases: The backends to check; by default all, also those that are no longer configured.
        max_lag: The limit in seconds; by default `OUTBOX_MAX_LAG_SECONDS`.
        max_retry_age: The limit in seconds; by default `OUTBOX_MAX_RETRY_AGE_SECONDS`.
        receiving: The consumers to check; by default all if `aliases` is None, else none.
    """
    bounds = _Bounds(
        lag=conf.MAX_LAG_SECONDS if max_lag is None else max_lag,
        retry_age=conf.MAX_RETRY_AGE_SECONDS if max_retry_age is None else max_retry_age,
    )
    if receiving is None:
        receiving = consumers.aliases() if aliases is None else ()
    try:
        using = using or router.db_for_read(OutboxEvent)
        if aliases is None:
            aliases = with_leftovers(using, backends.aliases())
        return Health((*_checks(using, aliases, bounds), *_of_consumers(using, receiving)))
    except Error as error:
        reason = MIGRATE if lacks_migration(error) else type(error).__name__
        detail = f"Database query failed: {reason}"
        return Health((Check(name="database", ok=False, detail=detail),))


@transaction.non_atomic_requests  # ATOMIC_REQUESTS would fail without a database
def health(request: HttpRequest) -> JsonResponse:
    """Return status 200 if the outbox is healthy, else 503, with the checks as JSON.

    The view is unauthenticated and shows aliases and figures. Restrict access to your monitoring
    system. Do not use the view as liveness probe: a late event must not restart a web process.
    """
    found = outbox_health()
    answer = JsonResponse(found.as_dict(), status=OK if found.is_ready else UNWELL)
    answer["Cache-Control"] = "no-store"
    return answer


class _Bounds(NamedTuple):
    """The limits in seconds."""

    lag: float
    retry_age: float


def _checks(using: str, aliases: Collection[str], bounds: _Bounds) -> Iterator[Check]:
    yield Check(name="database", ok=True, detail="answers")
    living = _living(using, aliases)
    free = _without_relay(using, aliases)
    configured = backends.aliases()
    for judgement in judgements(using, aliases, configured, backends.slots()):
        each = judgement.overview
        if judgement.facts.is_configured:
            relays, unowned = living.get(each.backend, 0), free.get(each.backend, 0)
            yield from _backend(judgement, relays, unowned, bounds)
        elif each.undelivered:
            detail = f"{each.undelivered} undelivered events, but not in OUTBOX_PUBLISHERS"
            yield Check(name="settings", ok=False, detail=detail, backend=each.backend)


def _backend(judgement: Judgement, relays: int, free: int, bounds: _Bounds) -> Iterator[Check]:
    each, slot = judgement.overview, judgement.facts.slot
    if slot is not None:
        ok = judgement.state != State.SLOT
        sizes = f"lag {size(slot.lag)}, retains {size(slot.retained)} (limit {size(slot.limit)})"
        detail = sizes if ok else judgement.verdict.reason
        yield Check(name="slot", ok=ok, detail=detail, backend=each.backend)
    if each.is_paused:
        # The name and reason of the pause are confidential; the view is unauthenticated.
        yield Check(name="relays", ok=True, detail=f"{relays}, paused", backend=each.backend)
        return
    detail = f"{relays}, {free} partitions without a relay" if free else str(relays)
    ok = relays > 0 or not judgement.facts.needs_relay
    yield Check(name="relays", ok=ok, detail=detail, backend=each.backend)
    for name, age, bound in (
        ("lag", each.lag, bounds.lag),
        ("retry", each.retry_age, bounds.retry_age),
    ):
        detail = f"{age:.1f} s (limit {bound:g} s)"
        yield Check(name=name, ok=age <= bound, detail=detail, backend=each.backend)
    # Without the error, which may contain data of an event; the view is unauthenticated.
    is_failing = judgement.state == State.FAILING
    detail = judgement.verdict.reason if is_failing else failed_of(judgement.facts)
    yield Check(name="failures", ok=not is_failing, detail=detail, backend=each.backend)


def _of_consumers(using: str, aliases: Collection[str]) -> Iterator[Check]:
    for each in consumer_judgements(using, aliases):
        lag = "" if each.lag is None else f", {each.lag} messages wait"
        # Without the error, which may name the broker; the view is unauthenticated.
        detail = each.verdict.aged_reason if each.level == Level.RED else f"{each.receivers}{lag}"
        ok = each.level != Level.RED
        yield Check(name="receivers", ok=ok, detail=detail, consumer=each.consumer)


def _living(using: str, aliases: Collection[str]) -> dict[str, int]:
    """Return the number of relays with a recent heartbeat, by backend."""
    relays = OutboxRelay.objects.using(using).filter(
        backend__in=aliases, heartbeat_at__gte=_oldest()
    )
    return _counted(relays.filter(takes_share=True))


def _without_relay(using: str, aliases: Collection[str]) -> dict[str, int]:
    """Return the number of partitions without such a relay, by backend."""
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
