"""Benchmarks of the relay to each broker, beside a bare loop with the same client."""

from __future__ import annotations

import sys

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
from .table import as_table

MODULES = {
    brokers_redis: 100_000,
    brokers_kafka: 100_000,
    brokers_nats: 50_000,
    brokers_rabbitmq: 50_000,
    brokers_mqtt: 50_000,
    brokers_webhook: 10_000,
    brokers_sqs: 10_000,
    brokers_celery: 2_000,
}
"""The benchmarks with their highest number of events: some are a hundred times slower."""


def brokers(runs: int, events: int) -> list[Figure]:
    """Compare one relay to each broker with its bare loop."""
    figures = []
    for module, most in MODULES.items():
        found = module.measure(runs, min(events, most))
        print(as_table(found), file=sys.stderr, flush=True)
        figures += found
    return figures
