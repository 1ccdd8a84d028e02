"""Benchmarks of every backend's relay, each beside a bare loop with the same client."""

from __future__ import annotations

from . import (
    brokers_celery,
    brokers_kafka,
    brokers_mqtt,
    brokers_nats,
    brokers_rabbitmq,
    brokers_redis,
    brokers_sqs,
    brokers_webhook,
)
from .measure import Figure

MODULES = (
    brokers_redis,
    brokers_kafka,
    brokers_nats,
    brokers_rabbitmq,
    brokers_mqtt,
    brokers_webhook,
    brokers_sqs,
    brokers_celery,
)


def brokers(runs: int, events: int) -> list[Figure]:
    """One relay for each broker."""
    return [figure for module in MODULES for figure in module.measure(runs, events)]
