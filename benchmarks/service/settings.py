"""The settings of the service that consumes; BENCH_BROKER is `redis` or `nats`."""

from __future__ import annotations

import os
from typing import Any

from tools import services

from ..settings import *  # noqa: F403
from ..settings import INSTALLED_APPS as OF_BENCHMARKS
from ..settings import OUTBOX_PUBLISHERS as REDIS
from ..settings import STREAM

INSTALLED_APPS = [*OF_BENCHMARKS, "benchmarks.service"]

NATS_STREAM = "BROADCASTER-SERVICES"
_BROKERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "redis": (
        REDIS["default"],
        {
            "CONSUMER": "django_broadcaster.consumers.RedisStreamConsumer",
            "OPTIONS": {
                "url": services.address("redis"),
                "stream_name": STREAM,
                "group": "service",
            },
        },
    ),
    "nats": (
        {
            "BACKEND": "django_broadcaster.backends.NATSBackend",
            "OPTIONS": {
                "servers": services.address("nats"),
                "stream": NATS_STREAM,
                "subject": "broadcaster-services.{type}",
            },
        },
        {
            "CONSUMER": "django_broadcaster.consumers.NATSConsumer",
            "OPTIONS": {
                "servers": services.address("nats"),
                "stream": NATS_STREAM,
                "durable": "service",
            },
        },
    ),
}
_BACKEND, _CONSUMER = _BROKERS[os.environ.get("BENCH_BROKER", "redis")]
OUTBOX_PUBLISHERS = {
    "default": _BACKEND,
    "handlers": {"BACKEND": "django_broadcaster.backends.LocalBackend"},
}
OUTBOX_CONSUMERS = {"service": _CONSUMER}
OUTBOX_ROUTES = {"*": "default"}
