"""Bare loops of consumers: the same work with the clients alone, without the models of the package.

Processes are spawned with them, which then import no more than the clients.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any

import orjson
import psycopg
import redis
from django.conf import settings

from tools import services

from . import bare, outbox

BATCH = 100
NATS_STREAM = "BROADCASTER-SERVICES"
ROW = "INSERT INTO bench_handled (number, customer) VALUES (%s, %s)"
NOTES = """
    INSERT INTO django_broadcaster_inboxevent (identity, handler, source, event_id, processed_at)
    SELECT *, now() FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[])
    ON CONFLICT DO NOTHING
"""


def drain() -> float:
    """Read 100, insert 100 rows against repetition and 100 rows, commit, acknowledge."""
    with (
        redis.Redis.from_url(services.address("redis")) as client,
        psycopg.connect(**outbox.address()) as connection,
    ):
        began = time.perf_counter()
        while consume(client, connection, "consume"):
            pass
        return time.perf_counter() - began


def consume(client: Any, connection: Any, group: str, block: int | None = None) -> int:
    """Consume one batch from Redis; return how many messages it had."""
    reply = client.xreadgroup(group, "bare", {settings.STREAM: ">"}, count=BATCH, block=block)
    if not reply:
        return 0
    ((_, entries),) = reply
    _handle(connection, [orjson.loads(fields[b"cloud_event"]) for _, fields in entries])
    client.xack(settings.STREAM, group, *[entry_id for entry_id, _ in entries])
    return len(entries)


def _handle(connection: Any, events: Sequence[dict[str, Any]], announce: bool = False) -> None:
    """Write the rows of events in one transaction."""
    texts = [f"bench\0{event['source']}\0{event['id']}" for event in events]
    identities = [sha256(text.encode()).hexdigest() for text in texts]
    with connection.cursor() as cursor:
        cursor.execute(
            NOTES,
            [
                identities,
                ["bench"] * len(events),
                [event["source"] for event in events],
                [event["id"] for event in events],
            ],
        )
        for event in events:
            data = event["data"]
            number = data["order"] if "order" in data else data["n"]
            cursor.execute(ROW, [number, event["partitionkey"]])
            if announce:
                cursor.execute("SELECT pg_notify('bench_handled', %s)", [event["id"]])
    connection.commit()


def send_loop(broker: str, ready: Any) -> None:
    import django

    django.setup()
    if broker == "redis":
        client = redis.Redis.from_url(services.address("redis"))
        bare.listen(ready, lambda rows: bare.append(client, rows))
        return
    loop = asyncio.new_event_loop()
    jetstream = loop.run_until_complete(_jetstream())

    async def send(rows: Sequence[Any]) -> None:
        for row in rows:
            await jetstream.publish_async(
                "broadcaster-services.order.placed",
                bare.envelope(row),
                headers={"Content-Type": "application/cloudevents+json"},
            )
        await jetstream.publish_async_completed()

    bare.listen(ready, lambda rows: loop.run_until_complete(send(rows)))


async def _jetstream() -> Any:
    import nats

    return (await nats.connect(services.address("nats"))).jetstream()


def read_loop(broker: str, ready: Any) -> None:
    import django

    django.setup()
    with psycopg.connect(**outbox.address()) as connection:
        if broker == "redis":
            client = redis.Redis.from_url(services.address("redis"))
            ready.set()
            while True:
                reply = client.xreadgroup(
                    "service", "bare", {settings.STREAM: ">"}, count=BATCH, block=1000
                )
                for _, entries in reply or ():
                    found = [orjson.loads(fields[b"cloud_event"]) for _, fields in entries]
                    _handle(connection, found, announce=True)
                    client.xack(settings.STREAM, "service", *[entry for entry, _ in entries])
        asyncio.run(_read_nats(connection, ready))


async def _read_nats(connection: Any, ready: Any) -> None:
    jetstream = await _jetstream()
    subscription = await jetstream.pull_subscribe(
        "broadcaster-services.>", durable="bare", stream=NATS_STREAM
    )
    ready.set()
    while True:
        with suppress(TimeoutError):
            messages = await subscription.fetch(1, timeout=1)
            _handle(connection, [orjson.loads(each.data) for each in messages], announce=True)
            for each in messages:
                await each.ack()
