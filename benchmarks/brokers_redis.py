"""The relay to Redis Streams in both content modes, beside a bare loop with redis-py's pipeline."""

from __future__ import annotations

from functools import partial

from django.conf import settings

from tools import services

from . import bare, outbox, relays
from .measure import Figure, compare


def measure(runs: int, events: int) -> list[Figure]:
    """Compare one relay in each content mode, 1,000 keys; the bare loop makes the same entries."""
    options = {
        "url": services.address("redis"),
        "stream_name": settings.STREAM,
        "max_len": None,
    }
    relay = partial(relays.drain_to, "RedisStreamBackend", **options)
    return [
        compare(
            f"relay, Redis, {mode}",
            partial(_on_backlog, events, partial(relay, content_mode=mode)),
            partial(_on_backlog, events, partial(bare.drain_to_stream, entry)),
            wanted=">= 0.75",
            runs=runs,
        )
        for mode, entry in {"structured": bare.structured, "binary": bare.binary}.items()
    ]


def _on_backlog(events: int, drain: outbox.Drain) -> float:
    relays.empty_stream()
    rate = outbox.on_backlog(events, drain)
    with relays.client() as client:
        stored = client.xlen(settings.STREAM)
    if stored != events:
        raise RuntimeError(f"{stored} of {events} events are in the stream")
    return rate
