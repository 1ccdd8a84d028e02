"""Benchmarks of a receiver: how fast it moves messages from a broker to the outbox."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import Any
from zlib import crc32

import orjson
import psycopg
import redis
from django.conf import settings
from django.test.utils import override_settings

from django_broadcaster.conf import conf
from django_broadcaster.receiving.receiver_thread import ReceiverThread
from django_broadcaster.relay.backend_thread import WorkerOptions
from django_broadcaster.relay.outage import DatabaseOutage
from django_broadcaster.relay.worker import Worker
from django_broadcaster.signals import messages_received
from tools import services

from . import bare, outbox, relays
from .measure import Figure, compare

GROUP = "bench"
PUBLISHERS = {"handlers": {"BACKEND": "django_broadcaster.backends.LocalBackend"}}


def receive(runs: int, events: int) -> list[Figure]:
    """Compare a receiver of Redis Streams with a bare loop; both read the same stream."""
    _fill(events)
    figure = compare(
        "receive, Redis",
        partial(_on_stream, events, _receiver),
        partial(_on_stream, events, _bare),
        wanted=">= 0.75",
        runs=runs,
    )
    relays.empty_stream()
    return [figure]


def _fill(events: int) -> None:
    relays.empty_stream()
    moment = datetime.now(UTC)
    rows = (
        (
            *(number, os.urandom(16).hex(), "/bench/orders", "order.placed", f"order {number}"),
            *(
                moment,
                "application/json",
                orjson.dumps(outbox.data(number)),
                f"key-{number % 1000}",
            ),
        )
        for number in range(events)
    )
    with relays.client() as client:
        while batch := [row for row, _ in zip(rows, range(bare.BATCH), strict=False)]:
            bare.append(client, batch)


def _on_stream(events: int, drain: Callable[[], float]) -> float:
    """Read the stream from its beginning into an empty outbox; return events a second."""
    outbox.empty()
    with relays.client() as client:
        stored = client.xlen(settings.STREAM)
        if client.exists(settings.STREAM):
            client.xgroup_destroy(settings.STREAM, GROUP)
        client.xgroup_create(settings.STREAM, GROUP, "0")
    outbox.quieten()
    seconds = drain()
    if (left := outbox.left()) != stored:
        raise RuntimeError(f"{left} of {stored} events are in the outbox")
    return stored / seconds


def _receiver() -> float:
    """Receive everything in this process; return the seconds from the first batch to the last.

    The whole worker runs: threads, lease, heartbeat.
    """
    options = {"url": services.address("redis"), "stream_name": settings.STREAM, "group": GROUP}
    consumer = {"CONSUMER": "django_broadcaster.consumers.RedisStreamConsumer", "OPTIONS": options}
    began = ended = 0.0

    def note(seconds: float, **_: object) -> None:
        nonlocal began, ended
        ended = time.perf_counter()
        began = began or ended - seconds

    with override_settings(OUTBOX_CONSUMERS={"bench": consumer}, OUTBOX_PUBLISHERS=PUBLISHERS):
        worker = Worker(
            WorkerOptions(
                database="default",
                backends=[],
                consumers=["bench"],
                batch_size=settings.OUTBOX_BATCH_SIZE,
                interval=1.0,
                drain=True,
            ),
            _thread,
        )
        messages_received.connect(note)
        try:
            if not worker.run():
                raise RuntimeError("The receiver did not receive every message.")
        finally:
            messages_received.disconnect(note)
    return ended - began


def _thread(alias: str, outage: DatabaseOutage) -> ReceiverThread:
    return ReceiverThread(
        "default", alias, limit=settings.OUTBOX_BATCH_SIZE, outage=outage, drain=True
    )


# The bare loop


_COLUMNS = (
    "event_id, source, event_type, subject, time, data_content_type, data_schema, extensions, "
    "data, partition_key, partition, publisher_backend, publisher_config, status, scheduled_at, "
    "created_at, updated_at, retry_count, max_retries, crash_count, last_error, identity"
)
_COPY = f"COPY django_broadcaster_outboxevent ({_COLUMNS}) FROM STDIN"


def _bare() -> float:
    """Read 1,000 entries, write them by COPY, commit and acknowledge, until none is left."""
    stream, began = settings.STREAM, 0.0
    with (
        redis.Redis.from_url(services.address("redis")) as client,
        psycopg.connect(**outbox.address()) as connection,
        connection.cursor() as cursor,
    ):
        while reply := client.xreadgroup(GROUP, "bare", {stream: ">"}, count=bare.BATCH):
            began = began or time.perf_counter()
            ((_, entries),) = reply
            now = datetime.now(UTC)
            with cursor.copy(_COPY) as copy:
                for _, fields in entries:
                    copy.write_row(_row(orjson.loads(fields[b"cloud_event"]), now))
            connection.commit()
            client.xack(stream, GROUP, *[entry_id for entry_id, _ in entries])
        return time.perf_counter() - began


def _row(event: dict[str, Any], now: datetime) -> tuple[Any, ...]:
    """Return the columns of an event."""
    key = event["partitionkey"]
    identity = sha256(f"{event['source']}\0{event['id']}\0bench".encode()).hexdigest()
    return (
        *(event["id"], event["source"], event["type"], event["subject"], event["time"]),
        *(event["datacontenttype"], "", "{}", orjson.dumps(event["data"]).decode(), key),
        *(crc32(key.encode()) % conf.PARTITIONS, "handlers", '{"consumer": "bench"}', "pending"),
        *(now, now, now, 0, 3, 0, "", identity),
    )
