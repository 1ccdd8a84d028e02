"""The current state of the backends, their relays and the consumers, as JSON.

Moments are seconds since 1970, so that an unchanged state has unchanged JSON; the page computes
ages. A count is a number and its kind: `exact`, `estimate` or `at least`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db.models import DurationField, ExpressionWrapper, F
from django.utils.translation import gettext as _

from django_broadcaster.amounts import size
from django_broadcaster.backends.handler import backends
from django_broadcaster.conf import conf
from django_broadcaster.models import OutboxPartition, OutboxRelay
from django_broadcaster.models.managers import DatabaseNow, aware
from django_broadcaster.store import (
    ConsumerJudgement,
    Count,
    Judgement,
    consumer_judgements,
    count_or_estimate,
    judgements,
)

BOUND = 2_000
"""Events up to which a state is counted; more are estimated if the database can."""

STATUSES = ("pending", "retry", "blocked", "scheduled", "failed")
BACKLOG = ("pending", "retry", "blocked")


def state(using: str, aliases: Collection[str], receiving: Collection[str] = ()) -> dict[str, Any]:
    """Return the backends with those aliases, the worst first, their relays, and consumers."""
    found = judgements(using, aliases, backends.aliases(), backends.slots(), exact=BOUND)
    return {
        "backends": [
            _backend(using, each) for each in sorted(found, key=lambda each: each.severity)
        ],
        "relays": _relays(using, aliases),
        "consumers": [
            _consumer(each)
            for each in sorted(consumer_judgements(using, receiving), key=lambda e: e.severity)
        ],
    }


def seconds(moment: datetime | None) -> float | None:
    """Return a moment as seconds since 1970."""
    return None if moment is None else round(aware(moment).timestamp(), 3)


def _backend(using: str, judgement: Judgement) -> dict[str, Any]:
    found, minute = judgement.overview, judgement.facts.recent.last
    counts = {status: count_or_estimate(using, found, status) for status in STATUSES}
    return {
        "alias": found.backend,
        "status": _status(judgement),
        "needs_attention": judgement.needs_attention,
        "counts": counts,
        "backlog": _sum([counts[status] for status in BACKLOG]),
        "oldest_waiting": seconds(found.oldest_waiting),
        "per_second": None if minute is None else round(minute.published / 60, 2),
        "latency": None if minute is None or not minute.timed else minute.medians / minute.timed,
        "relays": found.relays,
        "partitions": {
            "owned": conf.PARTITIONS - found.free_partitions if found.relays else 0,
            "all": conf.PARTITIONS,
        },
        "endpoints": judgement.facts.endpoints._asdict(),
        "slot_lag": None if judgement.facts.slot is None else size(judgement.facts.slot.lag),
        "paused": found.is_paused,
    }


def _status(judgement: Judgement | ConsumerJudgement) -> dict[str, Any]:
    """Return the state, and why: the page puts the time since `since` into it."""
    verdict = judgement.verdict
    return {
        "text": _(verdict.state),
        "level": judgement.level.name.lower(),
        "reason": verdict.reason_and_error,
        "since": seconds(verdict.since),
    }


def _consumer(judgement: ConsumerJudgement) -> dict[str, Any]:
    names = ("lag", "received", "duplicates", "malformed", "receivers")
    return {
        "alias": judgement.consumer,
        "status": _status(judgement),
        "needs_attention": judgement.needs_attention,
        "per_second": round(judgement.per_second, 2),
        "last_received": seconds(judgement.last_received_at),
        **{name: getattr(judgement, name) for name in names},
    }


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
