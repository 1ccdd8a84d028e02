"""Benchmarks of the publish call, beside the least that a publish call can do."""

from __future__ import annotations

import time
from collections.abc import Callable

import orjson
from django.db import connection, transaction
from django.utils import timezone
from psycopg import ClientCursor

from django_broadcaster import notify
from django_broadcaster.publishers import publisher

from . import bare, outbox
from .measure import Figure, compare

CALLS = 100
SHORT_RUNS = 25
"""Short runs per run: what a busy machine does to one of a pair, it does to the other."""

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


def publish(runs: int, events: int) -> list[Figure]:
    """Compare `publish_event` with two INSERTs.

    In a transaction of its own, with an INSERT by psycopg into a table of an id, a type and a
    payload, also in a transaction of its own, without and with a plan that the server keeps. In an
    open transaction, with an INSERT of the same row by Django's cursor.
    """
    outbox.empty()
    with bare.MinimalTable() as table:
        alone = [
            compare(
                f"publish, a transaction each{name}",
                lambda may_prepare=may_prepare: _with_plan(may_prepare, _publish_alone),
                lambda: _microseconds(lambda n: table.insert("order.placed", outbox.data(n))),
                unit="us",
                wanted="<= 1.35",
                runs=SHORT_RUNS * runs,
            )
            for name, may_prepare in (("", False), (", prepared", True))
        ]
    outbox.empty()
    same_row = compare(
        "publish, in one transaction",
        lambda: _in_one_transaction(_publish),
        lambda: _in_one_transaction(_insert),
        unit="us",
        wanted="<= 1.25",
        runs=SHORT_RUNS * runs,
    )
    return [*alone, same_row]


def parts(runs: int, events: int) -> list[Figure]:
    """Go from the INSERT into the minimal table to `publish_event`, in steps, one part at a time.

    Each step is a transaction of its own, and is compared with the INSERT into the minimal table.
    """
    outbox.empty()
    connection.ensure_connection()
    with bare.MinimalTable() as table:
        steps: dict[str, Callable[[int], object]] = {
            "the outbox's row": lambda n: table.execute(_INSERT, _values(n)),
            "+ planned each time": lambda n: table.execute(_INSERT, _values(n), by=ClientCursor),
            "+ Django's atomic()": _insert_by_psycopg,
            "+ Django's cursor": _insert_alone,
            "publish_event, no NOTIFY": _publish_silently,
            "publish_event": _publish_alone,
            "publish_event, a NOTIFY each": _publish_loudly,
        }
        return [
            compare(
                f"publish: {name}",
                lambda call=call: _microseconds(call, 20),
                lambda: _microseconds(lambda n: table.insert("order.placed", outbox.data(n)), 20),
                unit="us",
                runs=SHORT_RUNS * runs,
            )
            for name, call in steps.items()
        ]


def _with_plan(may_prepare: bool, call: Callable[[int], object]) -> float:
    """Measure calls with or without `prepare_threshold` in the OPTIONS of the database."""
    connection.ensure_connection()
    connection.connection.prepare_threshold = 5 if may_prepare else None
    try:
        return _microseconds(call)
    finally:
        connection.connection.prepare_threshold = None


def _in_one_transaction(call: Callable[[int], object]) -> float:
    with transaction.atomic():
        return _microseconds(call)


def _microseconds(call: Callable[[int], object], calls: int = CALLS) -> float:
    began = time.perf_counter()
    for number in range(calls):
        call(number)
    return (time.perf_counter() - began) / calls * 1e6


def _publish_alone(number: int) -> None:
    with transaction.atomic():
        _publish(number)


def _publish(number: int) -> None:
    key = f"key-{number % 1000}"
    publisher.publish_event("order.placed", "/bench/orders", outbox.data(number), partition_key=key)


def _publish_silently(number: int) -> None:
    notify._sent[connection.alias, "default"] = time.monotonic() + 1
    _publish_alone(number)


def _publish_loudly(number: int) -> None:
    notify._sent.clear()
    _publish_alone(number)


def _insert(number: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_INSERT, _values(number))
        cursor.fetchone()


def _insert_alone(number: int) -> None:
    with transaction.atomic():
        _insert(number)


def _insert_by_psycopg(number: int) -> None:
    with transaction.atomic():
        ClientCursor(connection.connection).execute(_INSERT, _values(number))


def _values(number: int) -> list[object]:
    now, key = timezone.now(), f"key-{number % 1000}"
    data = orjson.dumps(outbox.data(number)).decode()
    return [f"event-{number}", now, data, key, now, now, now]
