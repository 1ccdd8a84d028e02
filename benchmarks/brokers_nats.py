"""The relay to NATS JetStream, beside a bare loop with nats-py's `publish_async`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import nats
import orjson
import psycopg
from django.test.utils import override_settings
from nats.js.errors import NotFoundError
from psycopg import pq

from tools import services

from . import bare, outbox, relays
from .measure import Figure, compare

STREAM = "BROADCASTER-BENCH"
SUBJECT = "broadcaster-bench.order.placed"
PUBLISHERS = {
    "default": {
        "BACKEND": "django_broadcaster.backends.NATSBackend",
        "OPTIONS": {
            "servers": services.address("nats"),
            "stream": STREAM,
            "subject": "broadcaster-bench.{type}",
        },
    }
}


def measure(runs: int, events: int) -> list[Figure]:
    """One relay to JetStream, 1,000 keys, beside the bare loop."""
    with override_settings(OUTBOX_PUBLISHERS=PUBLISHERS):
        try:
            return [
                compare(
                    "NATS",
                    _on_backlog(relays.drain, events),
                    _on_backlog(_bare, events),
                    wanted=">= 0.75",
                    runs=runs,
                )
            ]
        finally:
            asyncio.run(_with_jetstream(_delete))


def _on_backlog(measure: Callable[[], float], events: int) -> Callable[[], float]:
    """Return the measurement, with a fresh backlog and an empty stream before it."""

    def on_backlog() -> float:
        outbox.empty()
        asyncio.run(_with_jetstream(_make))
        outbox.fill(events)
        rate = measure()
        stored = asyncio.run(_with_jetstream(_count))
        if stored != events:
            raise RuntimeError(f"{stored} of {events} events are in the stream")
        return rate

    return on_backlog


# --- The bare loop -------------------------------------------------------------------------------


def _bare() -> float:
    return asyncio.run(_with_jetstream(_drain))


async def _drain(jetstream: Any) -> float:
    """Send every pending event to the stream; return events a second."""
    count, last = 0, 0
    with psycopg.connect(**outbox.address()) as connection:
        cursor = psycopg.Cursor(connection)
        cursor.format = pq.Format.BINARY
        began = time.perf_counter()
        while True:
            rows = cursor.execute(bare._FETCH, [last, bare.BATCH]).fetchall()
            if not rows:
                break
            await asyncio.gather(*[await _send(jetstream, row) for row in rows])
            cursor.execute(bare._UPDATE, [[row[0] for row in rows]])
            connection.commit()
            count += len(rows)
            last = rows[-1][0]
        return count / (time.perf_counter() - began)


async def _send(jetstream: Any, row: tuple[Any, ...]) -> asyncio.Future[Any]:
    _, event_id, source, event_type, subject, moment, content_type, data, key = row
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
    headers = {
        "Nats-Msg-Id": event_id,
        "Nats-Expected-Stream": STREAM,
        "Content-Type": "application/cloudevents+json",
    }
    future: asyncio.Future[Any] = await jetstream.publish_async(SUBJECT, envelope, headers=headers)
    return future


# --- The stream ----------------------------------------------------------------------------------


async def _with_jetstream(work: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    client = await nats.connect(services.address("nats"))
    try:
        return await work(client.jetstream(timeout=30))
    finally:
        await client.close()


async def _make(jetstream: Any) -> None:
    await _delete(jetstream)
    await jetstream.add_stream(name=STREAM, subjects=["broadcaster-bench.>"])


async def _delete(jetstream: Any) -> None:
    with suppress(NotFoundError):
        await jetstream.delete_stream(STREAM)


async def _count(jetstream: Any) -> int:
    information = await jetstream.stream_info(STREAM)
    return int(information.state.messages)
