"""Benchmark of the Celery backend: a whole relay beside a bare loop of Celery's `send_task`.

The bare loop sends as carefully as the backend does: on one connection, with confirmations on
RabbitMQ, each call when the one before has been acknowledged.
"""

from __future__ import annotations

import time
from contextlib import closing
from uuid import uuid4

import orjson
import psycopg
from celery import Celery
from django.test.utils import override_settings
from psycopg import pq

from tests.support import celery_queue
from tools import services

from . import outbox, relays
from .bare import _FETCH, _UPDATE, BATCH
from .measure import Figure, compare

app = Celery("bench", set_as_current=False)
"""The app of the relay; `measure` gives it its broker and its queue."""


def measure(runs: int, events: int) -> list[Figure]:
    """One relay to a queue of Redis, and to one of RabbitMQ, each beside the bare loop."""
    return [_measured(broker, runs, events) for broker in ("redis", "rabbitmq")]


def _measured(broker: str, runs: int, events: int) -> Figure:
    global app
    url, queue = services.address(broker), f"broadcaster-bench-{uuid4().hex}"
    app = Celery("bench", broker=url, set_as_current=False)
    app.conf.task_default_queue = queue
    setting = {
        "BACKEND": "django_broadcaster.backends.CeleryBackend",
        "OPTIONS": {"app": f"{__name__}.app"},
    }

    def fresh() -> None:
        celery_queue.remove(url, queue)
        outbox.empty()
        outbox.fill(events)

    def relay() -> float:
        fresh()
        with override_settings(OUTBOX_PUBLISHERS={"default": setting}):
            return relays.drain()

    def bare() -> float:
        fresh()
        return _drain()

    try:
        return compare(f"relay, Celery on {broker}", relay, bare, wanted=">= 0.75", runs=runs)
    finally:
        celery_queue.remove(url, queue)


def _drain() -> float:
    """Send a call for every pending event; return events a second."""
    connection = app.connection_for_write(transport_options={"confirm_publish": True})
    if connection.transport.driver_type != "amqp":
        connection = app.connection_for_write()
    count, last = 0, 0
    with closing(connection), psycopg.connect(**outbox.address()) as database:
        producer = app.amqp.Producer(connection.channel(), auto_declare=False)
        cursor = psycopg.Cursor(database)
        cursor.format = pq.Format.BINARY
        began = time.perf_counter()
        while rows := cursor.execute(_FETCH, [last, BATCH]).fetchall():
            for row in rows:
                _send(producer, row)
            cursor.execute(_UPDATE, [[row[0] for row in rows]])
            database.commit()
            count += len(rows)
            last = rows[-1][0]
        return count / (time.perf_counter() - began)


def _send(producer: object, row: tuple) -> None:
    _, event_id, source, event_type, subject, moment, content_type, data, key = row
    event = {
        "specversion": "1.0",
        "id": event_id,
        "source": source,
        "type": event_type,
        "subject": subject,
        "time": moment.isoformat(),
        "datacontenttype": content_type,
        "partitionkey": key,
        "data": orjson.loads(data),
    }
    app.send_task(event_type, [event], producer=producer, retry=False, ignore_result=True)
