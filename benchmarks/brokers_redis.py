"""The relay to Redis Streams in both content modes, beside a bare loop with redis-py's pipeline."""

from __future__ import annotations

from collections.abc import Callable

import redis
from django.conf import settings
from django.test.utils import override_settings

from django_broadcaster.backends.bindings import CONTENT_MODES, ContentMode
from tools import services

from . import bare, outbox, relays
from .measure import Figure, compare


def measure(runs: int, events: int) -> list[Figure]:
    """One relay, 1,000 keys. The bare loop sends what is in the default mode for both."""
    return [
        compare(
            f"relay, Redis, {mode}",
            _on_backlog(lambda mode=mode: _relay(mode), events),
            _on_backlog(bare.drain, events),
            wanted=">= 0.75",
            runs=runs,
        )
        for mode in CONTENT_MODES
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


def _relay(mode: ContentMode) -> float:
    options = {
        "url": services.address("redis"),
        "stream_name": settings.STREAM,
        "content_mode": mode,
    }
    backend = "django_broadcaster.backends.RedisStreamBackend"
    with override_settings(OUTBOX_PUBLISHERS={"default": {"BACKEND": backend, "OPTIONS": options}}):
        return relays.drain()
