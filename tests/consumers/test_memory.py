"""A receiver's memory is bounded by its batch, however much waits at the broker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis
from django.db import connection, transaction

from django_broadcaster.events import CloudEvent
from django_broadcaster.models import OutboxEvent, OutboxReceiver
from tests.support.redis_server import redis_server
from tests.support.waiting import wait_until
from tests.support.workers import Worker, Workers

MESSAGES = 1_000_000
BATCH = 200
GROUP = "billing"
FILL = """
for number = ARGV[1], ARGV[2] do
    redis.call('XADD', KEYS[1], '*', 'cloud_event', (string.gsub(ARGV[3], 'NUMBER', number)))
end
"""
MOST_GROWTH = 25_000
"""Kilobytes; a million messages take over a hundred times as much."""


def resident(worker: Worker) -> int:
    """Return the kilobytes of memory that a process occupies."""
    status = Path(f"/proc/{worker.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.chaos
@pytest.mark.timeout(240)
def test_memory_is_flat_while_the_database_is_slow_and_a_million_messages_wait(
    committing: None, workers: Workers, tmp_path: Path
) -> None:
    """Two batches are received and no more; afterwards everything goes on."""
    if connection.vendor != "postgresql":
        pytest.skip("the database is made slow by a lock of PostgreSQL")
    with redis_server(tmp_path, "--save", "") as server:
        options: dict[str, Any] = {"host": "127.0.0.1", "port": server.port, "group": GROUP}
        client = redis.Redis(port=server.port, decode_responses=True)
        worker = workers.start(
            "default",
            *("--batch-size", str(BATCH)),
            command="outbox_consumer",
            OUTBOX_PUBLISHERS={"handlers": {"BACKEND": "django_broadcaster.backends.LocalBackend"}},
            OUTBOX_CONSUMERS={
                "billing": {
                    "CONSUMER": "django_broadcaster.consumers.RedisStreamConsumer",
                    "OPTIONS": options,
                }
            },
        )
        fill(client, 1, 5 * BATCH)
        events = OutboxEvent.objects.using("default")
        wait_until(lambda: events.count() == 5 * BATCH, 60, "the receiver works")
        before = resident(worker)
        with transaction.atomic(using="default"):
            with connection.cursor() as cursor:  # inserts wait until the end of the transaction
                cursor.execute("LOCK TABLE django_broadcaster_outboxevent IN SHARE MODE")
            for first in range(0, MESSAGES, 50_000):
                fill(client, 10_000 + first, 10_000 + first + 49_999)
            wait_until(lambda: pending(client) == 2 * BATCH, 30, "two batches in hand")
            assert resident(worker) - before < MOST_GROWTH
            assert OutboxReceiver.objects.using("default").get().reads == "billing"
        wait_until(lambda: events.count() > 20_000, 90, "the receiver goes on")
        assert resident(worker) - before < MOST_GROWTH


def fill(client: Any, first: int, last: int) -> None:
    """Append events with these numbers."""
    event = CloudEvent("order.placed", "/shop", {"pad": "x" * 100}, id="NUMBER").to_json()
    client.eval(FILL, 1, "events", first, last, event)


def pending(client: Any) -> int:
    """Return the messages that were received and not acknowledged."""
    return int(client.xpending("events", GROUP)["pending"])
