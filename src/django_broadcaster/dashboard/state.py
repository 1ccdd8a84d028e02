"""The current state of the backends and their relays, as JSON.

Moments are seconds since 1970, so that an unchanged state has unchanged JSON; the page computes
ages. A count is a number and its kind: `exact`, `estimate` or `at least`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db.models import DurationField, ExpressionWrapper, F
from django.utils import timezone
from django.utils.translation import gettext as _

from django_broadcaster.backends.handler import backends
from django_broadcaster.conf import conf
from django_broadcaster.models import OutboxPartition, OutboxRelay, OutboxSample
from django_broadcaster.models.managers import DatabaseNow, aware
from django_broadcaster.store import Count, Overview, count_or_estimate, minute_of, overviews

BOUND = 2_000
"""Events up to which a state is counted; more are estimated if the database can."""

STATUSES = ("pending", "retry", "blocked", "scheduled", "failed")
BACKLOG = ("pending", "retry", "blocked")


def state(using: str, aliases: Collection[str]) -> dict[str, Any]:
    """Return the backends with those aliases, and their relays."""
    relays = _relays(using, aliases)
    minutes = _last_minutes(using, aliases)
    found = overviews(using, aliases, exact=BOUND)
    return {
        "backends": [
            _backend(
                using,
                each,
                [relay for relay in relays if relay["backend"] == each.backend],
                minutes.get(each.backend),
            )
            for each in found
        ],
        "relays": relays,
    }


def seconds(moment: datetime | None) -> float | None:
    """Return a moment as seconds since 1970."""
    return None if moment is None else round(aware(moment).timestamp(), 3)


def _backend(
    using: str, found: Overview, relays: Sequence[dict[str, Any]], minute: OutboxSample | None
) -> dict[str, Any]:
    counts = {status: count_or_estimate(using, found, status) for status in STATUSES}
    alive = [relay for relay in relays if not relay["stale"]]
    # The last circuit of a dead relay says nothing about the broker now.
    circuits = [relay["circuit"] for relay in alive if relay["circuit"]]
    circuit = min(circuits, key=lambda each: each["since"], default=None)
    owned = conf.PARTITIONS - found.free_partitions if alive else 0
    return {
        "alias": found.backend,
        "status": _status(found, bool(alive), circuit is not None, owned),
        "counts": counts,
        "backlog": _sum([counts[status] for status in BACKLOG]),
        "configured": found.backend in backends.aliases(),
        "oldest_due": seconds(found.oldest_due),
        "oldest_retry": seconds(found.oldest_retry) if _has_stuck(found) else None,
        "per_second": None if minute is None else round(minute.published / 60, 2),
        "latency": None if minute is None or not minute.timed else minute.waited / minute.timed,
        "relays": len(alive),
        "partitions": {"owned": owned, "all": conf.PARTITIONS},
        "circuit": circuit,
        "paused": found.is_paused
        and {"since": seconds(found.paused_at), "by": found.paused_by or _("an unknown user")},
    }


def _status(found: Overview, is_served: bool, is_open: bool, owned: int) -> dict[str, str]:
    """Return the most severe state of a backend, with its label."""
    if found.backend not in backends.aliases():
        return {"name": "unserved", "text": _("not configured")}
    if found.is_paused:
        return {"name": "paused", "text": _("paused")}
    if not is_served:
        return {"name": "unserved", "text": _("no relay")}
    if is_open:
        return {"name": "away", "text": _("broker unavailable")}
    if owned < conf.PARTITIONS:
        return {"name": "unserved", "text": _("partitions without a relay")}
    if _has_stuck(found):
        return {"name": "stuck", "text": _("an event is stuck")}
    if found.oldest_due is None:
        return {"name": "idle", "text": _("up to date")}
    return {"name": "busy", "text": _("delivering")}


def _has_stuck(found: Overview) -> bool:
    """Return True if an event has been in retry for longer than OUTBOX_MAX_RETRY_AGE_SECONDS."""
    return found.retry_age > conf.MAX_RETRY_AGE_SECONDS


def _sum(counts: Sequence[Count]) -> Count:
    kinds = {count.kind for count in counts}
    for kind in ("at least", "estimate"):
        if kind in kinds:
            return Count(sum(count.number for count in counts), kind)
    return Count(sum(count.number for count in counts), "exact")


def _relays(using: str, aliases: Collection[str]) -> list[dict[str, Any]]:
    """Return the relays that hold a lease; `stale` ones have missed heartbeats."""
    age = ExpressionWrapper(DatabaseNow() - F("heartbeat_at"), output_field=DurationField())
    rows = OutboxRelay.objects.using(using).filter(backend__in=aliases).annotate(age=age)
    owned: defaultdict[int, list[int]] = defaultdict(list)
    partitions = OutboxPartition.objects.using(using).filter(
        backend__in=aliases, relay__isnull=False
    )
    for relay_id, number in partitions.order_by("number").values_list("relay_id", "number"):
        owned[relay_id].append(number)
    return [
        {
            "id": str(row.pk),  # JavaScript would round a large number
            "name": row.name,
            "backend": row.backend,
            "partitions": {"count": len(owned[row.pk]), "ranges": ranges(owned[row.pk])},
            "started": seconds(row.started_at),
            "heartbeat": seconds(row.heartbeat_at),
            "stale": row.age > timedelta(seconds=conf.LEASE_SECONDS),
            "in_flight": None
            if row.in_flight_from is None
            else [row.in_flight_from, row.in_flight_to],
            "circuit": row.circuit_open_since
            and {"since": seconds(row.circuit_open_since), "error": row.circuit_error},
        }
        for row in rows.order_by("backend", "name", "pk")
    ]


def ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers as ranges: `0-3, 7`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("–".join(map(str, part)) for part in parts)  # noqa: RUF001  # a range


def _last_minutes(using: str, aliases: Collection[str]) -> dict[str, OutboxSample]:
    """Return the last whole minute of each backend, or the one before it.

    Relays write a minute's figures some seconds later.
    """
    now = minute_of(timezone.now())
    rows = OutboxSample.objects.using(using).filter(
        backend__in=aliases, minute__gte=now - 2, minute__lt=now
    )
    return {row.backend: row for row in rows.order_by("minute")}
