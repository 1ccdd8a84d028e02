"""Benchmark of the webhook backend: a whole relay beside a bare loop with the same client.

Both send signed requests to an endpoint of their own, a process that answers 204 at once. The bare
loop is the best that aiohttp does: as many requests at once as the backend has, as if no key had an
order.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator

import aiohttp
import orjson
import psycopg
from django.test.utils import override_settings
from psycopg import pq

from . import outbox, relays
from .bare import _FETCH, _UPDATE, BATCH
from .measure import Figure, compare
from .webhook_endpoint import endpoint

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105  # it protects nothing
IN_FLIGHT = 64
SHARE = 4
"""A request takes so many times as long as an entry of a stream: a part of the events will do."""


def measure(runs: int, events: int) -> list[Figure]:
    """One relay to one endpoint, every request answered, beside the bare loop."""
    events = max(BATCH, events // SHARE)
    with endpoint() as url:
        options = {"url": url, "secrets": [SECRET], "allow_private": True}
        path = "django_broadcaster.backends.WebhookBackend"

        def relay() -> float:
            outbox.empty()
            outbox.fill(events)
            setting = {"default": {"BACKEND": path, "OPTIONS": options}}
            with override_settings(OUTBOX_PUBLISHERS=setting):
                return relays.drain()

        def bare() -> float:
            outbox.empty()
            outbox.fill(events)
            return asyncio.run(_drain(url))

        return [compare("relay, webhook", relay, bare, wanted=">= 0.75", runs=runs)]


async def _drain(url: str) -> float:
    """Send every pending event to the endpoint; return events a second."""
    count, last = 0, 0
    connector = aiohttp.TCPConnector(limit=0)
    with psycopg.connect(**outbox.address()) as database:
        cursor = psycopg.Cursor(database)
        cursor.format = pq.Format.BINARY
        async with aiohttp.ClientSession(connector=connector) as session:
            began = time.perf_counter()
            while rows := cursor.execute(_FETCH, [last, BATCH]).fetchall():
                waiting = iter(rows)
                await asyncio.gather(*(_send(session, url, waiting) for _ in range(IN_FLIGHT)))
                cursor.execute(_UPDATE, [[row[0] for row in rows]])
                database.commit()
                count += len(rows)
                last = rows[-1][0]
            return count / (time.perf_counter() - began)


async def _send(session: aiohttp.ClientSession, url: str, rows: Iterator[tuple]) -> None:
    key = b64decode(SECRET.partition("_")[2])
    for _, event_id, source, event_type, subject, moment, content_type, data, partition_key in rows:
        body = orjson.dumps(
            {
                "specversion": "1.0",
                "id": event_id,
                "source": source,
                "type": event_type,
                "subject": subject,
                "time": moment,
                "datacontenttype": content_type,
                "partitionkey": partition_key,
                "data": orjson.Fragment(data),
            }
        )
        seconds = str(int(time.time()))
        signature = hmac.digest(key, f"{event_id}.{seconds}.".encode() + body, "sha256")
        headers = {
            "Content-Type": "application/cloudevents+json",
            "webhook-id": event_id,
            "webhook-timestamp": seconds,
            "webhook-signature": f"v1,{b64encode(signature).decode()}",
        }
        async with session.post(url, data=body, headers=headers) as response:
            await response.read()
            if not 200 <= response.status < 300:
                raise RuntimeError(f"the endpoint answered {response.status}")
