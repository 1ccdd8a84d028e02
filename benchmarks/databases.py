"""Benchmarks of the relay on MariaDB and SQLite, beside a bare loop with their drivers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from typing import Any
from zlib import crc32

from django.conf import settings
from django.core.management import call_command
from django.db import connections
from django.utils import timezone

from django_broadcaster.conf import conf
from django_broadcaster.models import InboxEvent, OutboxEvent, OutboxPartition, OutboxRelay

from . import bare, outbox, relays
from .measure import Figure, compare

TABLE = OutboxEvent._meta.db_table
_FETCH = (
    "SELECT id, event_id, source, event_type, subject, time, data_content_type, data, "
    f"partition_key FROM {TABLE} {{hint}} WHERE status = 'pending' "
    "AND publisher_backend = 'default' AND id > {mark} ORDER BY id LIMIT {mark}"
)
_SETTLE = f"UPDATE {TABLE} SET status = 'published', published_at = {{mark}} WHERE id IN ({{ids}})"
_HINTS = {
    "mysql": "FORCE INDEX (broadcaster_pending)",
    "sqlite": "INDEXED BY broadcaster_pending",
}


def databases(runs: int, events: int) -> list[Figure]:
    """Compare one relay on each available database with a bare loop with its driver."""
    return [
        _one(alias, runs, min(events, 20_000)) for alias in settings.DATABASES if alias != "default"
    ]


def _one(alias: str, runs: int, events: int) -> Figure:
    _prepare(alias)
    figure = compare(
        f"relay on {'MariaDB' if alias == 'mariadb' else 'SQLite'}",
        lambda: _on_backlog(alias, events, relays.drain),
        lambda: _on_backlog(alias, events, _bare),
        runs=runs,
    )
    _empty(alias)
    return figure


def _on_backlog(alias: str, events: int, drain: Any) -> float:
    _empty(alias)
    relays.empty_stream()
    _fill(alias, events)
    return float(drain(alias))


def _bare(alias: str) -> float:
    """Send every pending event with the driver and redis-py alone; return events a second."""
    connection = connections[alias]
    connection.ensure_connection()
    raw, mark = connection.connection, "?" if connection.vendor == "sqlite" else "%s"
    fetch = _FETCH.format(hint=_HINTS[connection.vendor], mark=mark)
    with closing(raw.cursor()) as cursor, relays.client() as client:

        def fetch_after(last: int) -> Any:
            cursor.execute(fetch, (last, bare.BATCH))
            return cursor.fetchall()

        def send(rows: Any) -> None:
            bare.append(client, [_parsed(row) for row in rows])

        def settle(ids: list[int]) -> None:
            now = connection.ops.adapt_datetimefield_value(timezone.now())
            cursor.execute(_SETTLE.format(mark=mark, ids=", ".join(map(str, ids))), (now,))
            if connection.vendor == "mysql":
                raw.commit()

        return bare.loop(fetch_after, send, settle)


def _parsed(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the row with its time as a datetime, which MySQL's driver returns by itself."""
    moment = datetime.fromisoformat(row[5]) if isinstance(row[5], str) else row[5]
    return (*row[:5], moment, *row[6:])


def _prepare(alias: str) -> None:
    connection = connections[alias]
    if connection.vendor == "mysql":
        with connection._nodb_cursor() as cursor:  # type: ignore[attr-defined]
            name = connection.ops.quote_name(connection.settings_dict["NAME"])
            cursor.execute(f"CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb4")
    call_command("migrate", database=alias, verbosity=0)


def _empty(alias: str) -> None:
    for model in (OutboxEvent, OutboxPartition, OutboxRelay, InboxEvent):
        model._base_manager.using(alias).all()._raw_delete(alias)  # type: ignore[attr-defined]


def _fill(alias: str, count: int) -> None:
    """Add events like those of `outbox.fill`."""
    OutboxEvent.objects.using(alias).bulk_create(_rows(count), batch_size=2000)


def _rows(count: int) -> Iterator[OutboxEvent]:
    for n in range(count):
        key = f"key-{n % 1000}"
        yield OutboxEvent(
            event_id=os.urandom(16).hex(),
            source="/bench/orders",
            event_type="order.placed",
            subject=f"order {n}",
            data_content_type="application/json",
            data=outbox.data(n),
            partition_key=key,
            partition=crc32(key.encode()) % conf.PARTITIONS,
            publisher_backend="default",
        )
