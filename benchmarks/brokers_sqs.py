"""The relay to SQS beside a bare loop with the same client.

The server is `sqs_sink`, which reads a call and acknowledges each of its messages. moto's server is
many times slower than either client and would be all that is measured. The speed of the real
service depends on the distance to it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import boto3
from botocore.config import Config

from . import bare, outbox, relays
from .measure import Figure, compare

QUEUE = "https://sqs.eu-west-1.amazonaws.com/123456789012/broadcaster-bench.fifo"
CONNECTIONS = 8
_ATTRIBUTES = {
    "content-type": {"DataType": "String", "StringValue": "application/cloudevents+json"}
}


def measure(runs: int, events: int) -> list[Figure]:
    """Compare one relay to a FIFO queue, every message acknowledged, with the bare loop."""
    with _server() as url:
        client = {
            "endpoint_url": url,
            "region_name": "eu-west-1",
            "aws_access_key_id": "key",
            "aws_secret_access_key": "none",
        }
        options = {"queue_url": QUEUE, "client": client, "connections": CONNECTIONS}
        relay = partial(relays.drain_to, "SQSBackend", **options)
        return [
            compare(
                "relay, SQS",
                partial(outbox.on_backlog, events, relay),
                partial(outbox.on_backlog, events, partial(_bare, client)),
                wanted=">= 0.75",
                runs=runs,
            )
        ]


def _bare(options: dict[str, str]) -> float:
    """Send every pending event to the queue, ten a call; return events a second."""
    config = Config(max_pool_connections=CONNECTIONS, retries={"total_max_attempts": 1})
    with (
        closing(boto3.session.Session().client("sqs", **options, config=config)) as client,
        ThreadPoolExecutor(CONNECTIONS) as pool,
    ):

        def call(entries: list[dict[str, Any]]) -> int:
            return len(client.send_message_batch(QueueUrl=QUEUE, Entries=entries)["Successful"])

        def send(rows: Sequence[Any]) -> None:
            entries = [_entry(str(number), row) for number, row in enumerate(rows)]
            calls = [entries[start : start + 10] for start in range(0, len(entries), 10)]
            if sum(pool.map(call, calls)) != len(rows):
                raise RuntimeError("the server did not take everything")

        return bare.drain(send)


def _entry(name: str, row: Sequence[Any]) -> dict[str, Any]:
    return {
        "Id": name,
        "MessageBody": bare.envelope(row).decode(),
        "MessageAttributes": _ATTRIBUTES,
        "MessageGroupId": row[-1],
        "MessageDeduplicationId": row[1],
    }


# --- The server --------------------------------------------------------------------------------


@contextmanager
def _server() -> Iterator[str]:
    """Run a process that acknowledges every message; yield its address."""
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
