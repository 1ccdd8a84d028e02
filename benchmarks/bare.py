"""Bare loops: the same work as ours with the clients alone. They are the limit.

A bare loop keeps no promise but delivery: no lease, no order after a failure, no retry, no stop.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import orjson
import psycopg
import redis
from django.conf import settings
from psycopg import pq

from tools import services

from . import outbox

BATCH = 1000


Send = Callable[[Sequence[Any]], object]
"""Sends rows and returns once the broker has all of them."""

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
_BEGIN = """
    WITH quick AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
    UPDATE django_broadcaster_outboxrelay
    SET heartbeat_at = statement_timestamp(), in_flight_from = %s, in_flight_to = %s
    FROM quick WHERE id = %s RETURNING id
"""
"""What a relay executes before each batch, without its check of the server."""

_DELETE = "DELETE FROM django_broadcaster_outboxevent WHERE id = ANY(%s)"


# A backlog


def drain(send: Send, *, delete: bool = False) -> float:
    """Send every pending event, 1,000 at a time; return events a second."""
    with psycopg.connect(**outbox.address()) as connection:
        cursor = psycopg.Cursor(connection)
        cursor.format = pq.Format.BINARY

        def settle(ids: list[int]) -> None:
            cursor.execute(_DELETE if delete else _UPDATE, [ids])
            connection.commit()

        return loop(lambda last: cursor.execute(_FETCH, [last, BATCH]).fetchall(), send, settle)


def loop(
    fetch: Callable[[int], Sequence[Any]], send: Send, settle: Callable[[list[int]], object]
) -> float:
    """Fetch the rows after an id, send and settle them until none is left; return events a second.

    The id is the first value of a row.
    """
    count = last = 0
    began = time.perf_counter()
    while rows := fetch(last):
        send(rows)
        settle([row[0] for row in rows])
        count += len(rows)
        last = rows[-1][0]
    return count / (time.perf_counter() - began)


def members(row: Sequence[Any]) -> dict[str, Any]:
    """Return the members of a row's event in the CloudEvents JSON format, its data encoded."""
    _, event_id, source, event_type, subject, moment, content_type, data, key = row
    return {
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


def envelope(row: Sequence[Any]) -> bytes:
    """Return a row's event in the CloudEvents JSON format."""
    return orjson.dumps(members(row))


# Redis Streams, by redis-py's pipeline

Entry = Callable[[Sequence[Any]], dict[str, Any]]


def drain_to_stream(entry: Entry | None = None, *, delete: bool = False) -> float:
    """Append every pending event to the stream; return events a second."""
    with redis.Redis.from_url(services.address("redis")) as client:
        return drain(lambda rows: append(client, rows, entry), delete=delete)


def append(client: redis.Redis, rows: Sequence[Any], entry: Entry | None = None) -> None:
    """Append rows to the stream in one pipeline, by default in structured mode."""
    make = entry or structured
    pipeline = client.pipeline(transaction=False)
    for row in rows:
        pipeline.xadd(settings.STREAM, make(row))
    pipeline.execute()


def structured(row: Sequence[Any]) -> dict[str, Any]:
    """Return the fields of an entry in structured mode."""
    _, event_id, source, event_type, _, moment, *_ = row
    return {
        "event_id": event_id,
        "event_type": event_type,
        "source": source,
        "timestamp": moment.isoformat(),
        "cloud_event": envelope(row),
    }


def binary(row: Sequence[Any]) -> dict[str, Any]:
    """Return the fields of an entry in binary mode."""
    _, event_id, source, event_type, subject, moment, content_type, data, key = row
    time = moment.isoformat()
    return {
        "event_id": event_id,
        "event_type": event_type,
        "source": source,
        "timestamp": time,
        "ce_specversion": "1.0",
        "ce_id": event_id,
        "ce_source": source,
        "ce_type": event_type,
        "ce_subject": subject,
        "ce_time": time,
        "ce_partitionkey": key,
        "content_type": content_type,
        "data": data,
    }


@contextmanager
def listen_loop(*, fenced: bool = False) -> Iterator[None]:
    """Deliver events to the stream on each NOTIFY until the block ends, in a process of its own.

    If `fenced`, check a lease and record the ids in flight before each batch, as a relay does.
    """
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_listen, args=[ready, fenced], daemon=True)
    process.start()
    try:
        if not ready.wait(60):
            raise TimeoutError("the bare loop did not start within 60 s")
        yield
    finally:
        process.terminate()
        process.join(10)


def _listen(ready: Any, fenced: bool) -> None:
    import django

    django.setup()
    client = redis.Redis.from_url(services.address("redis"))
    listen(ready, lambda rows: append(client, rows), fenced=fenced)


def listen(ready: Any, send: Send, *, fenced: bool = False) -> None:
    """Send rows on each NOTIFY, for ever; `ready` is set once it listens."""
    lease = _lease() if fenced else 0
    with (
        psycopg.connect(**outbox.address(), autocommit=True) as listener,
        psycopg.connect(**outbox.address(), autocommit=fenced) as connection,
    ):
        listener.execute("LISTEN django_broadcaster")
        ready.set()
        cursor = psycopg.Cursor(connection)
        cursor.format = pq.Format.BINARY
        last = 0
        while True:
            rows = cursor.execute(_FETCH, [last, BATCH]).fetchall()
            if rows:
                if fenced:
                    cursor.execute(_BEGIN, [rows[0][0], rows[-1][0], lease])
                send(rows)
                cursor.execute(_UPDATE, [[row[0] for row in rows]])
                last = rows[-1][0]
            connection.commit()
            if not rows:
                for _ in listener.notifies(timeout=0.1, stop_after=1):
                    pass


def _lease() -> int:
    """Return the id of a new lease."""
    from django_broadcaster.relay.lease import Lease

    lease = Lease("default", "default")
    lease.join()
    return lease.id


# Writing


class MinimalTable:
    """A table with an event's id, type and payload, and nothing else; a context manager."""

    def __enter__(self) -> Self:
        self._connection = psycopg.connect(**outbox.address(), autocommit=True)
        self._connection.execute("DROP TABLE IF EXISTS bench_minimal")
        self._connection.execute(
            "CREATE TABLE bench_minimal (id bigserial PRIMARY KEY, type text, payload jsonb)"
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.execute("DROP TABLE bench_minimal")
        self._connection.close()

    def insert(self, event_type: str, data: dict[str, Any]) -> None:
        """Write one row in a transaction of its own."""
        sql = "INSERT INTO bench_minimal (type, payload) VALUES (%s, %s)"
        self.execute(sql, [event_type, orjson.dumps(data).decode()])

    def execute(self, sql: str, values: Sequence[Any], *, by: Any = psycopg.Cursor) -> None:
        """Execute an INSERT on the same connection, in a transaction of its own."""
        with self._connection.transaction():
            by(self._connection).execute(sql, values)
