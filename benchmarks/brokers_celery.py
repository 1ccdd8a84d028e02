"""The relay to Celery beside a bare loop of Celery's `send_task`.

The bare loop sends as carefully as the backend: on one connection, with confirmations on RabbitMQ,
each call after the one before it was acknowledged.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any
from uuid import uuid4

import orjson
from celery import Celery

from tests.support import celery_queue
from tools import services

from . import bare, outbox, relays
from .measure import Figure, compare

app = Celery("bench", set_as_current=False)
"""The app of the relay; `measure` gives it its broker and its queue."""


def measure(runs: int, events: int) -> list[Figure]:
    """Compare one relay to a queue of Redis, and one to a queue of RabbitMQ, with the bare loop."""
    return [_measured(broker, runs, events) for broker in ("redis", "rabbitmq")]


def _measured(broker: str, runs: int, events: int) -> Figure:
    global app
    url, queue = services.address(broker), f"broadcaster-bench-{uuid4().hex}"
    app = Celery("bench", broker=url, set_as_current=False)
    app.conf.task_default_queue = queue

    def on_backlog(drain: outbox.Drain) -> float:
        celery_queue.remove(url, queue)
        return outbox.on_backlog(events, drain)

    try:
        return compare(
            f"relay, Celery on {broker}",
            lambda: on_backlog(partial(relays.drain_to, "CeleryBackend", app=f"{__name__}.app")),
            lambda: on_backlog(_bare),
            wanted=">= 0.75",
            runs=runs,
        )
    finally:
        celery_queue.remove(url, queue)


def _bare() -> float:
    """Send a call for every pending event; return events a second."""
    connection = app.connection_for_write(transport_options={"confirm_publish": True})
    if connection.transport.driver_type != "amqp":
        connection = app.connection_for_write()
    with closing(connection):
        producer = app.amqp.Producer(connection.channel(), auto_declare=False)

        def send(rows: Sequence[Any]) -> None:
            for row in rows:
                event = bare.members(row)
                event |= {"time": row[5].isoformat(), "data": orjson.loads(row[7])}
                app.send_task(row[3], [event], producer=producer, retry=False, ignore_result=True)

        return bare.drain(send)
