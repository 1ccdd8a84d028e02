"""Bare loops: the same work as a relay's with nothing around it. They are the limit.

A bare loop keeps no promise but delivery: no lease, no order after a failure, no retry, no stop.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import orjson
import psycopg
import redis
from django.conf import settings
from psycopg import pq

from tools import services

from . import outbox

BATCH = 1000
_FETCH = """
    SELECT id, event_id, source, event_type, subject, time, data_content_type, data::text,
           partition_key
    FROM django_broadcaster_outboxevent WHERE status = 'pending' AND publisher_backend = 'default'
    AND id > %s ORDER BY id LIMIT %s
"""
_UPDATE = """
    UPDATE django_broadcaster_outboxevent SET status = 'published', published_at = now()
    WHERE id = ANY(%s)
"""
Send = Callable[[redis.Redis, list[tuple]], None]
_DELETE = "DELETE FROM django_broadcaster_outboxevent WHERE id = ANY(%s)"


def drain(*, delete: bool = False, send: Send | None = None) -> float:
    """Send every pending event to the stream; return events a second."""
    send = send or in_json
    settle = _DELETE if delete else _UPDATE
    client = redis.Redis.from_url(services.address("redis"))
    count, last = 0, 0
    with psycopg.connect(**outbox.address()) as connection:
        cursor = psycopg.Cursor(connection)
        cursor.format = pq.Format.BINARY
        began = time.perf_counter()
        while True:
            rows = cursor.execute(_FETCH, [last, BATCH]).fetchall()
            if not rows:
                break
            send(client, rows)
            cursor.execute(settle, [[row[0] for row in rows]])
            connection.commit()
            count += len(rows)
            last = rows[-1][0]
        elapsed = time.perf_counter() - began
    client.close()
    return count / elapsed


def in_json(client: redis.Redis, rows: list[tuple]) -> None:
    """Append rows of `_FETCH` to the stream, in one pipeline."""
    pipeline = client.pipeline(transaction=False)
    for _, event_id, source, event_type, subject, moment, content_type, data, key in rows:
        envelope = orjson.dumps(
            {
                "specversion": "1.0",
                "id": event_id,
                "source": source,
                "type": event_type,
                "subject": subject,
                "time": moment,
                "datacontenttype": content_type,
                "partitionkey": key,
                "data": orjson.Fragment(data),
            }
        )
        pipeline.xadd(
            settings.STREAM,
            {
                "event_id": event_id,
                "event_type": event_type,
                "source": source,
                "timestamp": moment.isoformat(),
                "cloud_event": envelope,
            },
        )
    pipeline.execute()


@contextmanager
def listen_loop() -> Iterator[None]:
    """Deliver each event as it is notified of, until the block ends; in a process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=_listen, daemon=True)
    process.start()
    time.sleep(2)
    try:
        yield
    finally:
        process.terminate()
        process.join(10)


def _listen() -> None:
    import django

    django.setup()
    client = redis.Redis.from_url(services.address("redis"))
    with psycopg.connect(**outbox.address(), autocommit=True) as listener:
        listener.execute("LISTEN django_broadcaster")
        with psycopg.connect(**outbox.address()) as connection:
            cursor = psycopg.Cursor(connection)
            cursor.format = pq.Format.BINARY
            last = 0
            while True:
                rows = cursor.execute(_FETCH, [last, BATCH]).fetchall()
                if rows:
                    in_json(client, rows)
                    cursor.execute(_UPDATE, [[row[0] for row in rows]])
                    last = rows[-1][0]
                connection.commit()
                if not rows:
                    for _ in listener.notifies(timeout=0.1, stop_after=1):
                        pass
