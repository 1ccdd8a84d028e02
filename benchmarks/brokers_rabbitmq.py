"""The relay to RabbitMQ beside a bare loop with the same client.

The bare loop is the best that py-amqp can do: it packs the frames of 1,000 persistent messages by
hand, writes them at once, without an order, and waits once for all confirmations.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from struct import pack
from typing import Any
from uuid import uuid4

import amqp

from django_broadcaster.backends import RabbitMQBackend
from django_broadcaster.backends.rabbitmq.address import Address
from tools import services

from . import bare, outbox, relays
from .measure import Figure, compare

_TYPE = b"application/cloudevents+json"


def measure(runs: int, events: int) -> list[Figure]:
    """Compare one relay to a durable queue, every message confirmed, with the bare loop."""
    name = f"broadcaster-bench-{uuid4().hex}"
    options = {"url": services.address("rabbitmq"), "exchange": name, "queue": name}
    with closing(RabbitMQBackend(alias="bench", **options)) as backend:
        backend.open()  # declares the exchange and the queue
        address = backend._address

    def on_backlog(drain: outbox.Drain) -> float:
        with _channel(address) as channel:
            channel.queue_purge(name)
        return outbox.on_backlog(events, drain)

    try:
        return [
            compare(
                "relay, RabbitMQ",
                lambda: on_backlog(partial(relays.drain_to, "RabbitMQBackend", **options)),
                lambda: on_backlog(partial(_bare, address, name)),
                wanted=">= 0.75",
                runs=runs,
            )
        ]
    finally:
        with _channel(address) as channel:
            channel.queue_delete(name)
            channel.exchange_delete(name)


@contextmanager
def _channel(address: Address) -> Iterator[amqp.Channel]:
    with amqp.Connection(**address.options) as connection:
        yield connection.channel()


def _bare(address: Address, exchange: str) -> float:
    """Send every pending event to the exchange; return events a second."""
    with amqp.Connection(**address.options) as connection:
        channel = connection.channel()
        channel.confirm_select()
        pending: set[int] = set()
        tags = itertools.count(1)

        def confirmed(tag: int, many: bool) -> None:
            pending.difference_update([each for each in pending if each <= tag] if many else [tag])

        def send(rows: Sequence[Any]) -> None:
            pending.update(itertools.islice(tags, len(rows)))
            connection.transport.write(_frames(channel.channel_id, exchange.encode(), rows))
            while pending:
                connection.drain_events()

        channel.events["basic_ack"].add(confirmed)
        return bare.drain(send)


def _frames(channel: int, exchange: bytes, rows: Sequence[Any]) -> bytes:
    parts = []
    for row in rows:
        body = bare.envelope(row)
        routing_key, message_id = row[3].encode(), row[1].encode()
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
