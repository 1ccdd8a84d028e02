"""The webhook relay beside a bare loop with the same client.

Both send signed requests to an endpoint in a process of its own that answers 204 at once. The bare
loop is the best that aiohttp does: as many concurrent requests as the backend, without an order.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import aiohttp

from . import bare, outbox, relays
from .measure import Figure, compare
from .webhook_endpoint import endpoint

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105  # protects nothing
IN_FLIGHT = 64
SHARE = 4
"""By how much fewer events are sent than to other brokers: a request takes longer."""


def measure(runs: int, events: int) -> list[Figure]:
    """Compare one relay to one endpoint, every request answered, with the bare loop."""
    events = max(bare.BATCH, events // SHARE)
    with endpoint() as url:
        options = {"url": url, "secrets": [SECRET], "allow_private": True}
        relay = partial(relays.drain_to, "WebhookBackend", **options)
        return [
            compare(
                "relay, webhook",
                partial(outbox.on_backlog, events, relay),
                partial(outbox.on_backlog, events, partial(_bare, url)),
                wanted=">= 0.75",
                runs=runs,
            )
        ]


def _bare(url: str) -> float:
    """Send every pending event to the endpoint; return events a second."""
    with asyncio.Runner() as runner:
        session = runner.run(_session())
        try:
            return bare.drain(lambda rows: runner.run(_send(session, url, rows)))
        finally:
            runner.run(session.close())


async def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


async def _send(session: aiohttp.ClientSession, url: str, rows: Sequence[Any]) -> None:
    waiting = iter(rows)
    await asyncio.gather(*(_post(session, url, waiting) for _ in range(IN_FLIGHT)))


async def _post(session: aiohttp.ClientSession, url: str, rows: Iterator[Any]) -> None:
    key = b64decode(SECRET.partition("_")[2])
    for row in rows:
        event_id, body = row[1], bare.envelope(row)
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
