"""Measure what an event costs with one to six relays, for `capacity`.

Counted are the processor seconds of the relays, of their sessions in PostgreSQL, and of Redis. So
relays and servers have to run on this machine. The database's log is that of the whole server.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.db import connection

from django_broadcaster.publishers import publisher

from . import outbox, relays
from .capacity import Costs, Point
from .table import machine

MOST_RELAYS = 6
CALLS = 3000
"""Publish calls whose cost is measured."""

TICKS = os.sysconf("SC_CLK_TCK")


def measure(events: int) -> Costs:
    """Measure everything; `events` is the backlog of each relay, up to three relays."""
    publish_us, publish_wal_bytes = _publishing()
    points = [point(count, events * min(count, 3)) for count in range(1, MOST_RELAYS + 1)]
    return Costs(
        machine=machine(),
        processors=os.cpu_count() or 1,
        points=points,
        publish_us=publish_us,
        publish_wal_bytes=publish_wal_bytes,
        row_bytes=_row_bytes(),
    )


@dataclass(frozen=True, slots=True)
class _Reading:
    """Counters at a moment: seconds of processors, bytes, and events in the stream."""

    at: float
    entries: int
    relays: float
    sessions: dict[int, float]
    broker: float
    wal: int
    busy: float
    total: float


def _read(pids: list[int]) -> _Reading:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_wal_lsn() - '0/0'")
        (wal,) = cursor.fetchone()
    with relays.client() as client:
        used, entries = client.info("cpu"), client.xlen(settings.STREAM)
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return _Reading(
        at=time.perf_counter(),
        entries=int(entries),
        relays=sum(relays.cpu(pid) for pid in pids),
        sessions=relays.sessions(),
        broker=used["used_cpu_user"] + used["used_cpu_sys"],
        wal=int(wal),
        busy=(sum(fields) - fields[3] - fields[4]) / TICKS,  # not idle, nor waiting for a disk
        total=sum(fields) / TICKS,
    )


def _database_seconds(before: _Reading, after: _Reading) -> float:
    return relays.used(before.sessions, after.sessions)


def point(count: int, events: int) -> Point:
    """Measure `count` relays between a tenth and nine tenths of a backlog.

    The relays start before the backlog exists, so that none begins alone.
    """
    outbox.empty()
    relays.empty_stream()
    workers = relays.start(count)
    pids = [worker.pid for worker in workers]
    try:
        relays.wait_for_leases(count)
        statements = outbox.transactions()
        outbox.fill(events, maintain=False)
        relays.wait_for_entries(int(events * 0.1))
        before = _read(pids)
        relays.wait_for_entries(int(events * 0.9))
        after = _read(pids)
        relays.wait_for_entries(events)
    finally:
        relays.stop(workers)
    measured = after.entries - before.entries
    return Point(
        relays=count,
        rate=measured / (after.at - before.at),
        relay_us=(after.relays - before.relays) / measured * 1e6,
        database_us=_database_seconds(before, after) / measured * 1e6,
        broker_us=(after.broker - before.broker) / measured * 1e6,
        wal_bytes=(after.wal - before.wal) / measured,
        statements=(outbox.transactions() - statements) / events * 1000,
        busy=(after.busy - before.busy) / (after.total - before.total),
    )


def _publishing() -> tuple[float, float]:
    """Return the microseconds and log bytes of the database for a publish call."""
    outbox.empty()
    before = _read([])
    for number in range(CALLS):
        publisher.publish_event(
            "order.placed",
            "/bench/orders",
            outbox.data(number),
            partition_key=f"key-{number % 1000}",
        )
    after = _read([])
    return (
        _database_seconds(before, after) / CALLS * 1e6,
        (after.wal - before.wal) / CALLS,
    )


def _row_bytes() -> float:
    """Return the bytes of a row that was delivered: its old version is gone after a vacuum."""
    with connection.cursor() as cursor:
        cursor.execute("VACUUM FULL django_broadcaster_outboxevent")
        cursor.execute(
            "SELECT pg_total_relation_size('django_broadcaster_outboxevent')::float / count(*) "
            "FROM django_broadcaster_outboxevent"
        )
        return float(cursor.fetchone()[0])
