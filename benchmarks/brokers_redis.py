"""The relay to Redis Streams in both content modes, beside a bare loop with redis-py's pipeline."""

from __future__ import annotations

from collections.abc import Callable

import redis
from django.conf import settings
from django.test.utils import override_settings

from tools import services

from . import bare, outbox, relays
from .measure import Figure, compare


def measure(runs: int, events: int) -> list[Figure]:
    """One relay, 1,000 keys, in each content mode; the bare loop makes the same entries."""
    return [
        compare(
            f"relay, Redis, {mode}",
            _on_backlog(lambda mode=mode: _relay(mode), events),
            _on_backlog(lambda send=send: bare.drain(send=send), events),
            wanted=">= 0.75",
            runs=runs,
        )
        for mode, send in {"structured": bare.in_json, "binary": _in_fields}.items()
    ]


def _on_backlog(measure: Callable[[], float], events: int) -> Callable[[], float]:
    """Return the measurement, with a fresh backlog and an empty stream before it."""

    def on_backlog() -> float:
        outbox.empty()
        relays.empty_stream()
        outbox.fill(events)
        rate = measure()
        with redis.Redis.from_url(services.address("redis")) as client:
            stored = client.xlen(settings.STREAM)
        if stored != events:
            raise RuntimeError(f"{stored} of {events} events are in the stream")
        return rate

    return on_backlog


def _relay(mode: str) -> float:
    options = {
        "url": services.address("redis"),
        "stream_name": settings.STREAM,
        "max_len": None,
        "content_mode": mode,
    }
    backend = "django_broadcaster.backends.RedisStreamBackend"
    with override_settings(OUTBOX_PUBLISHERS={"default": {"BACKEND": backend, "OPTIONS": options}}):
        return relays.drain()


def _in_fields(client: redis.Redis, rows: list[tuple]) -> None:
    """Append rows of the bare loop to the stream in binary mode, in one pipeline."""
    pipeline = client.pipeline(transaction=False)
    for _, event_id, source, event_type, subject, moment, content_type, data, key in rows:
        time = moment.isoformat()
        pipeline.xadd(
            settings.STREAM,
            {
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
            },
        )
    pipeline.execute()
