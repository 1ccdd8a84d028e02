"""Benchmarks of `publish_events`, beside Django's `bulk_create` of the same events."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import uuid4
from zlib import crc32

from django.db import transaction
from django.utils import timezone

from django_broadcaster.conf import conf
from django_broadcaster.events import CloudEvent
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.publishing import BATCH_SIZE

from . import outbox
from .measure import Figure, compare

EVENTS = 20_000
WANTED = ">= 5"


def bulk(runs: int, events: int) -> list[Figure]:
    """Compare `publish_events` in an open transaction with `bulk_create` in batches of that size.

    Both get the same dictionaries or CloudEvents. `bulk_create` validates nothing. Making its
    instances counts, because an application has to make them, too.
    """
    count = min(events, EVENTS)
    dictionaries = [_keywords(number) for number in range(count)]
    cloud_events = [_cloud_event(number) for number in range(count)]
    return [
        compare(
            f"bulk, {kind}",
            partial(_per_second, publisher.publish_events, given),
            partial(_per_second, create, given),
            wanted=WANTED,
            runs=runs,
        )
        for kind, given, create in (
            ("dictionaries", dictionaries, _create_of_keywords),
            ("CloudEvents", cloud_events, _create_of_cloud_events),
        )
    ]


def _per_second(publish: Callable[[list[Any]], object], events: list[Any]) -> float:
    outbox.empty()
    with transaction.atomic():
        began = time.perf_counter()
        publish(events)
        return len(events) / (time.perf_counter() - began)


def _keywords(number: int) -> dict[str, Any]:
    return {
        "event_type": "order.placed",
        "source": "/bench/orders",
        "data": outbox.data(number),
        "partition_key": f"key-{number % 1000}",
    }


def _cloud_event(number: int) -> CloudEvent:
    return CloudEvent(
        event_type="order.placed",
        source="/bench/orders",
        data=outbox.data(number),
        extensions={"partitionkey": f"key-{number % 1000}"},
    )


def _create_of_keywords(events: list[dict[str, Any]]) -> None:
    now = timezone.now()
    rows = [
        OutboxEvent(
            **each,
            event_id=str(uuid4()),
            time=now,
            data_content_type="application/json",
            partition=crc32(each["partition_key"].encode()) % conf.PARTITIONS,
            publisher_backend="default",
        )
        for each in events
    ]
    OutboxEvent.objects.bulk_create(rows, batch_size=BATCH_SIZE)


def _create_of_cloud_events(events: list[CloudEvent]) -> None:
    rows = [
        OutboxEvent(
            event_id=each.id,
            source=each.source,
            event_type=each.event_type,
            time=each.time,
            data_content_type=each.data_content_type or "",
            data=each.data,
            partition_key=each.partition_key or "",
            partition=crc32((each.partition_key or each.id).encode()) % conf.PARTITIONS,
            publisher_backend="default",
        )
        for each in events
    ]
    OutboxEvent.objects.bulk_create(rows, batch_size=BATCH_SIZE)
