"""The outbox under measurement: events with about 300 bytes of JSON data, 1,000 keys."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from zlib import crc32

import psycopg
from django.conf import settings
from django.core.management import call_command
from django.db import connection, connections

from django_broadcaster.conf import conf

PAD = "x" * 220

Drain = Callable[[], float]
"""Delivers every pending event; returns events a second."""


def prepare() -> None:
    """Create the benchmarks' own database and its tables."""
    name = connection.settings_dict["NAME"]
    with connection._nodb_cursor() as cursor:  # type: ignore[attr-defined]
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
        if cursor.fetchone() is None:
            cursor.execute(f'CREATE DATABASE "{name}"')
    call_command("migrate", verbosity=0)


def empty() -> None:
    """Empty every table."""
    with connection.cursor() as cursor:
        cursor.execute(
            "TRUNCATE django_broadcaster_outboxevent, django_broadcaster_outboxpartition, "
            "django_broadcaster_outboxrelay, django_broadcaster_outboxreceiver, "
            "django_broadcaster_inboxevent RESTART IDENTITY"
        )


def fill(
    count: int, *, keys: int = 1000, status: str = "pending", days: int = 0, maintain: bool = True
) -> None:
    """Add events in one statement, scheduled `days` from now.

    With `maintain`, vacuum the table and write a checkpoint, so that neither runs meanwhile.
    """
    _key_table(keys)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO django_broadcaster_outboxevent
                (event_id, source, event_type, subject, time, data_content_type, data_schema,
                 extensions, data, partition_key, partition, publisher_backend, publisher_config,
                 status, scheduled_at, created_at, updated_at, published_at, retry_count,
                 max_retries, crash_count, last_error)
            SELECT gen_random_uuid()::text, '/bench/orders', 'order.placed', 'order ' || n, now(),
                   'application/json', '', '{}',
                   jsonb_build_object('order', n, 'customer', 'c-' || n, 'total', n * 1.5,
                                      'note', 'says "hello"', 'pad', %s::text),
                   k.name, k.partition, 'default', '{}', %s, now() + make_interval(days => %s),
                   now(), now(), CASE WHEN %s = 'published' THEN now() END, 0, 3, 0, ''
            FROM generate_series(1, %s) n JOIN bench_keys k ON k.number = n %% %s
            ORDER BY n
            """,
            [PAD, status, days, status, count, keys],
        )
        cursor.execute("DROP TABLE bench_keys")
    if maintain:
        maintenance()


def maintenance() -> None:
    """Vacuum the table and write a checkpoint, so that the server does neither soon."""
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE django_broadcaster_outboxevent")
        cursor.execute("CHECKPOINT")


def on_backlog(events: int, drain: Drain, *, keys: int = 1000) -> float:
    """Fill an empty outbox, drain it, and return the rate."""
    empty()
    fill(events, keys=keys)
    return drain()


@contextmanager
def without_statistics() -> Iterator[None]:
    """Make the database forget its statistics of the events; autovacuum takes none meanwhile."""
    table = "django_broadcaster_outboxevent"
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
        cursor.execute("DELETE FROM pg_statistic WHERE starelid = %s::regclass", [table])
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {table} RESET (autovacuum_enabled)")


def analyse() -> None:
    """Let the database take its statistics of the events."""
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE django_broadcaster_outboxevent")


def quieten() -> None:
    """Leave rows that were written lately as they are after the first read, and the disk quiet."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM django_broadcaster_outboxevent")
        cursor.execute("CHECKPOINT")


def data(number: int) -> dict[str, Any]:
    """Return the data of one event, about 300 bytes as JSON."""
    return {
        "order": number,
        "customer": f"c-{number}",
        "total": number * 1.5,
        "note": 'says "hello"',
        "pad": PAD,
    }


def left(database: str = "default") -> int:
    """Return how many events are pending."""
    with connections[database].cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM django_broadcaster_outboxevent WHERE status = 'pending'"
        )
        return int(cursor.fetchone()[0])


def _key_table(keys: int) -> None:
    rows = [(n, f"key-{n}", crc32(f"key-{n}".encode()) % conf.PARTITIONS) for n in range(keys)]
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE bench_keys (number int, name text, partition int)")
        cursor.executemany("INSERT INTO bench_keys VALUES (%s, %s, %s)", rows)


@contextmanager
def held_snapshot() -> Iterator[None]:
    """Hold a snapshot in another session, which prevents the removal of dead rows."""
    with psycopg.connect(**address()) as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT count(*) FROM django_broadcaster_outboxrelay")
        yield


def window_times(window: int) -> list[datetime]:
    """Return when every `window`-th event was settled."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT published_at FROM django_broadcaster_outboxevent "
            "WHERE id %% %s = 0 ORDER BY id",
            [window],
        )
        return [row[0] for row in cursor.fetchall()]


def transactions() -> int:
    """Return the database's number of transactions; each of a relay's is one statement."""
    with psycopg.connect(**address(), autocommit=True) as other:
        time.sleep(1.5)  # the server updates its counters within a second
        row = other.execute(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
    return int(row[0]) if row else 0


def address() -> dict[str, Any]:
    """Return the arguments with which psycopg connects to the benchmarks' database."""
    parts = settings.DATABASES["default"]
    return {
        "host": parts["HOST"],
        "port": parts["PORT"],
        "user": parts["USER"],
        "password": parts["PASSWORD"],
        "dbname": parts["NAME"],
    }
