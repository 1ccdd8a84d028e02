"""Events by short names: `a1` is the event 1 of the key `a`, `-1` is an event without a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

from django.db import models, transaction

from django_broadcaster.conf import conf
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher

SOURCE = "/tests"


def key_of(name: str) -> str:
    """Return the key of the event of that name."""
    return name.rstrip("0123456789").removeprefix("-")


def publish(*names: str, using: str, **arguments: Any) -> list[OutboxEvent]:
    """Publish events in one transaction; the name is the subject, and in the data."""
    with transaction.atomic(using=using):
        return [
            publisher.publish_event(
                "order.placed",
                SOURCE,
                {"name": name},
                subject=name,
                partition_key=key_of(name) or None,
                using=using,
                **arguments,
            )
            for name in names
        ]


def insert(*rows: OutboxEvent, using: str = "default") -> None:
    """Insert rows as they are, invalid ones included: no publisher would write them so."""
    models.QuerySet(OutboxEvent, using=using).bulk_create(rows, batch_size=2000)
    if rows and rows[0].pk is None:  # MariaDB returns no ids
        last = OutboxEvent.objects.using(using).order_by("-pk").values_list("pk", flat=True)[0]
        for pk, row in enumerate(rows, last - len(rows) + 1):
            row.pk = pk


def publish_many(
    count: int, using: str, *, keys: int, backend: str = "default", first: int = 0
) -> list[str]:
    """Write a backlog, quickly, with its events going round the keys; return their names.

    `first` is how many of such events there are already.
    """
    names = [f"k{number % keys}-{number // keys}" for number in range(first, first + count)]
    rows = []
    for name in names:
        key = name.partition("-")[0]
        rows.append(
            OutboxEvent(
                event_id=name,
                source=SOURCE,
                event_type="order.placed",
                subject=name,
                data={"name": name},
                data_content_type="application/json",
                partition_key=key,
                partition=crc32(key.encode()) % conf.PARTITIONS,
                publisher_backend=backend,
            )
        )
    insert(*rows, using=using)
    return names


def row(name: str, using: str) -> OutboxEvent:
    """Return the row of the event of that name."""
    return OutboxEvent.objects.using(using).get(subject=name)


def statuses(using: str) -> dict[str, str]:
    """Return the status of every event, by name, in publish order."""
    rows = OutboxEvent.objects.using(using).order_by("id")
    return {name: str(status) for name, status in rows.values_list("subject", "status")}


def count(status: str, using: str) -> int:
    """Return how many events have that status."""
    return OutboxEvent.objects.using(using).filter(status=status).count()


def first_arrivals(names: Sequence[str]) -> dict[str, list[str]]:
    """Return for each key its events in the order in which they first arrived."""
    order: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        key = name.partition("-")[0] if "-" in name else key_of(name)
        order.setdefault(key, []).append(name)
    return order
