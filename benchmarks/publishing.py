"""Benchmarks of the publish call, beside the INSERT that it makes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson
from django.db import connection, transaction
from django.utils import timezone

from django_broadcaster.publishers import publisher

from . import outbox
from .measure import Figure, compare

CALLS = 500
SHORT_RUNS = 5
"""Short runs in the place of a long one: what a busy machine does to one, it does to the other."""
_INSERT = """
    INSERT INTO django_broadcaster_outboxevent
        (event_id, source, event_type, subject, time, data_content_type, data_schema, extensions,
         data, data_binary, identity, partition_key, partition, publisher_backend,
         publisher_config, status, scheduled_at, created_at, updated_at, max_retries, retry_count,
         crash_count, last_error)
    VALUES (%s, '/bench/orders', 'order.placed', '', %s, 'application/json', '', '{}', %s, NULL,
            NULL, %s, 7, 'default', '{}', 'pending', %s, %s, %s, 3, 0, 0, '')
    RETURNING id
"""
_DATA = orjson.dumps(
    {"order": 1, "customer": "c-1", "note": 'says "hello"', "pad": outbox.PAD}
).decode()


def publish(runs: int, events: int) -> list[Figure]:
    """`publish_event` in an open transaction, beside the same INSERT by Django's cursor."""
    return [
        compare(
            "publish",
            lambda: _microseconds(_publish_one),
            lambda: _microseconds(_insert_one),
            unit="us",
            wanted="<= 1.25",
            runs=SHORT_RUNS * max(runs, 7),
        )
    ]


def _microseconds(call: Callable[[int], object]) -> float:
    outbox.empty()
    with transaction.atomic():
        began = time.perf_counter()
        for number in range(CALLS):
            call(number)
        return (time.perf_counter() - began) / CALLS * 1e6


def _publish_one(number: int) -> None:
    publisher.publish_event(
        "order.placed", "/bench/orders", _data(number), partition_key=f"key-{number % 1000}"
    )


def _insert_one(number: int) -> None:
    now = timezone.now()
    with connection.cursor() as cursor:
        cursor.execute(
            _INSERT, [f"event-{number}", now, _DATA, f"key-{number % 1000}", now, now, now]
        )
        cursor.fetchone()


def _data(number: int) -> dict[str, Any]:
    return {
        "order": number,
        "customer": f"c-{number}",
        "total": number * 1.5,
        "note": 'says "hello"',
        "pad": outbox.PAD,
    }
