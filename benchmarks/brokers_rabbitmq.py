"""Benchmark of the RabbitMQ backend: a whole relay beside a bare loop with the same client.

The bare loop is the best that py-amqp can do: frames of 1,000 persistent messages packed by hand
and written at once, as if no key had an order, and then one wait for all confirmations.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from struct import pack
from uuid import uuid4

import amqp
import orjson
import psycopg
from django.test.utils import override_settings
from psycopg import pq

from django_broadcaster.backends import RabbitMQBackend
from django_broadcaster.backends.rabbitmq.address import Address
from tools import services

from . import outbox, relays
from .bare import _FETCH, _UPDATE, BATCH
from .measure import Figure, compare

_TYPE = b"application/cloudevents+json"


def measure(runs: int, events: int) -> list[Figure]:
    """One relay to a durable queue, all messages confirmed, beside the bare loop."""
    name = f"broadcaster-bench-{uuid4().hex}"
    options = {"url": services.address("rabbitmq"), "exchange": name, "queue": name}
    setting = {"BACKEND": "django_broadcaster.backends.RabbitMQBackend", "OPTIONS": options}
    with closing(RabbitMQBackend(alias="bench", **options)) as backend:
        backend.open()  # declares
        address = backend._address

    def fresh() -> None:
        outbox.empty()
        with _channel(address) as channel:
            channel.queue_purge(name)
        outbox.fill(events)

    def relay() -> float:
        fresh()
        with override_settings(OUTBOX_PUBLISHERS={"default": setting}):
            return relays.drain()

    def bare() -> float:
        fresh()
        return _drain(address, name)

    try:
        return [compare("relay, RabbitMQ", relay, bare, wanted=">= 0.75", runs=runs)]
    finally:
        with _channel(address) as channel:
            channel.queue_delete(name)
            channel.exchange_delete(name)


@contextmanager
def _channel(address: Address) -> Iterator[amqp.Channel]:
    with amqp.Connection(**address.options) as connection:
        yield connection.channel()


def _drain(address: Address, exchange: str) -> float:
    """Send every pending event to the exchange; return events a second."""
    connection = amqp.Connection(**address.options)
    connection.connect()
    channel = connection.channel()
    channel.confirm_select()
    pending: set[int] = set()

    def confirmed(tag: int, many: bool) -> None:
        pending.difference_update([each for each in pending if each <= tag] if many else [tag])

    channel.events["basic_ack"].add(confirmed)
    count, last = 0, 0
    with psycopg.connect(**outbox.address()) as database:
        cursor = psycopg.Cursor(database)
        cursor.format = pq.Format.BINARY
        began = time.perf_counter()
        while rows := cursor.execute(_FETCH, [last, BATCH]).fetchall():
            pending.update(range(count + 1, count + len(rows) + 1))
            connection.transport.write(_frames(channel.channel_id, exchange.encode(), rows))
            count += len(rows)
            while pending:
                connection.drain_events()
            cursor.execute(_UPDATE, [[row[0] for row in rows]])
            database.commit()
            last = rows[-1][0]
        elapsed = time.perf_counter() - began
    connection.close()
    return count / elapsed


def _frames(channel: int, exchange: bytes, rows: list[tuple]) -> bytes:
    parts = []
    for _, event_id, source, event_type, subject, moment, content_type, data, key in rows:
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
        routing_key, message_id = event_type.encode(), event_id.encode()
        method = pack(
            f">HHHB{len(exchange)}sB{len(routing_key)}sB",
            *(60, 40, 0, len(exchange), exchange, len(routing_key), routing_key, 1),
        )
        head = pack(
            f">HHQHB{len(_TYPE)}sBB{len(message_id)}s",
            *(60, 0, len(body), 0x9080, len(_TYPE), _TYPE, 2, len(message_id), message_id),
        )
        for kind, payload in ((1, method), (2, head), (3, body)):
            parts += [pack(">BHI", kind, channel, len(payload)), payload, b"\xce"]
    return b"".join(parts)
