"""The relay to NATS JetStream, beside a bare loop with nats-py's `publish_async`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import nats
from nats.js.errors import NotFoundError

from tools import services

from . import bare, outbox, relays
from .measure import Figure, compare

STREAM = "BROADCASTER-BENCH"
SUBJECT = "broadcaster-bench.order.placed"


def measure(runs: int, events: int) -> list[Figure]:
    """Compare one relay to JetStream, 1,000 keys, with the bare loop."""
    options = {
        "servers": services.address("nats"),
        "stream": STREAM,
        "subject": "broadcaster-bench.{type}",
    }
    try:
        return [
            compare(
                "relay, NATS",
                partial(_on_backlog, events, partial(relays.drain_to, "NATSBackend", **options)),
                partial(_on_backlog, events, _bare),
                wanted=">= 0.75",
                runs=runs,
            )
        ]
    finally:
        with _jetstream() as (runner, jetstream):
            runner.run(_delete(jetstream))


def _on_backlog(events: int, drain: outbox.Drain) -> float:
    with _jetstream() as (runner, jetstream):
        runner.run(_make(jetstream))
        rate = outbox.on_backlog(events, drain)
        stored = runner.run(jetstream.stream_info(STREAM)).state.messages
    if stored != events:
        raise RuntimeError(f"{stored} of {events} events are in the stream")
    return rate


def _bare() -> float:
    with _jetstream() as (runner, jetstream):
        return bare.drain(lambda rows: runner.run(_send(jetstream, rows)))


async def _send(jetstream: Any, rows: Sequence[Any]) -> None:
    await asyncio.gather(*[await _publish(jetstream, row) for row in rows])


async def _publish(jetstream: Any, row: Sequence[Any]) -> asyncio.Future[Any]:
    headers = {
        "Nats-Msg-Id": row[1],
        "Nats-Expected-Stream": STREAM,
        "Content-Type": "application/cloudevents+json",
    }
    future: asyncio.Future[Any] = await jetstream.publish_async(
        SUBJECT, bare.envelope(row), headers=headers
    )
    return future


@contextmanager
def _jetstream() -> Iterator[tuple[asyncio.Runner, Any]]:
    """Connect to the server; yield the loop that runs the client's calls, and the client."""
    with asyncio.Runner() as runner:
        client = runner.run(nats.connect(services.address("nats")))
        try:
            yield runner, client.jetstream(timeout=30)
        finally:
            runner.run(client.close())


async def _make(jetstream: Any) -> None:
    await _delete(jetstream)
    await jetstream.add_stream(name=STREAM, subjects=["broadcaster-bench.>"])


async def _delete(jetstream: Any) -> None:
    with suppress(NotFoundError):
        await jetstream.delete_stream(STREAM)
