"""Benchmark of the SQS backend: a whole relay beside a bare loop with the same client.

The server is a small one of ours that reads a call and acknowledges each of its messages. moto's is
many times slower than either, and slower with each message, so both would be as slow as it is. How
fast the real service is depends on the distance to it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import boto3
import orjson
import psycopg
from botocore.config import Config
from django.test.utils import override_settings
from psycopg import pq

from . import outbox, relays
from .bare import _FETCH, _UPDATE, BATCH
from .measure import Figure, compare

QUEUE = "https://sqs.eu-west-1.amazonaws.com/123456789012/broadcaster-bench.fifo"
CONNECTIONS = 8
_ATTRIBUTES = {
    "content-type": {"DataType": "String", "StringValue": "application/cloudevents+json"}
}


def measure(runs: int, events: int) -> list[Figure]:
    """One relay to a FIFO queue, all messages acknowledged, beside the bare loop."""
    with _server() as url:
        client = {
            "endpoint_url": url,
            "region_name": "eu-west-1",
            "aws_access_key_id": "key",
            "aws_secret_access_key": "none",
        }
        options = {"queue_url": QUEUE, "client": client, "connections": CONNECTIONS}
        setting = {"BACKEND": "django_broadcaster.backends.SQSBackend", "OPTIONS": options}

        def relay() -> float:
            outbox.empty()
            outbox.fill(events)
            with override_settings(OUTBOX_PUBLISHERS={"default": setting}):
                return relays.drain()

        def bare() -> float:
            outbox.empty()
            outbox.fill(events)
            return _drain(client)

        return [compare("relay, SQS", relay, bare, wanted=">= 0.75", runs=runs)]


def _drain(options: dict[str, str]) -> float:
    """Send every pending event to the queue, ten a call; return events a second."""
    config = Config(max_pool_connections=CONNECTIONS, retries={"total_max_attempts": 1})
    count, last = 0, 0
    with (
        closing(boto3.session.Session().client("sqs", **options, config=config)) as client,
        ThreadPoolExecutor(CONNECTIONS) as pool,
        psycopg.connect(**outbox.address()) as database,
    ):

        def send(entries: list[dict[str, Any]]) -> int:
            return len(client.send_message_batch(QueueUrl=QUEUE, Entries=entries)["Successful"])

        cursor = psycopg.Cursor(database)
        cursor.format = pq.Format.BINARY
        began = time.perf_counter()
        while rows := cursor.execute(_FETCH, [last, BATCH]).fetchall():
            entries = [_entry(str(number), row) for number, row in enumerate(rows)]
            calls = [entries[start : start + 10] for start in range(0, len(entries), 10)]
            if sum(pool.map(send, calls)) != len(rows):
                raise RuntimeError("the server did not take everything")
            cursor.execute(_UPDATE, [[row[0] for row in rows]])
            database.commit()
            count += len(rows)
            last = rows[-1][0]
        return count / (time.perf_counter() - began)


def _entry(name: str, row: tuple) -> dict[str, Any]:
    _, event_id, source, event_type, subject, moment, content_type, data, key = row
    body = orjson.dumps(
        {
            "specversion": "1.0",
            "id": event_id,
            "source": source,
            "type": event_type,
            "subject": subject,
            "time": moment,
            "datacontenttype": content_type,
            "partitionkey": key,
            "data": orjson.Fragment(data),
        }
    )
    return {
        "Id": name,
        "MessageBody": body.decode(),
        "MessageAttributes": _ATTRIBUTES,
        "MessageGroupId": key,
        "MessageDeduplicationId": event_id,
    }


# --- The server --------------------------------------------------------------------------------


@contextmanager
def _server() -> Iterator[str]:
    """A process that acknowledges whatever it is sent; the value is its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.sqs_sink"],
        cwd=relays.ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
