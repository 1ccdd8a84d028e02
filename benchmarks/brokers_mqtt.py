"""Benchmark of the MQTT backend: a whole relay beside a bare loop with the same client.

The bare loop is the best that paho-mqtt can do: packets of 1,000 messages packed by hand, as many
on their way as the server's Receive Maximum allows, as if no key had an order. paho's own `publish`
costs 80 microseconds of processor a message, and packing by hand costs one. Nobody subscribes, so
that the server has as little to do as can be.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from struct import pack
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import orjson
import psycopg
from django.test.utils import override_settings
from paho.mqtt import client as paho
from psycopg import pq

from tools import services

from . import outbox, relays
from .bare import _FETCH, _UPDATE, BATCH
from .measure import Figure, compare

_CONTENT_TYPE = b"\x03\x00\x1capplication/cloudevents+json"


def mqtt_figures(runs: int, events: int) -> list[Figure]:
    """One relay to an MQTT server, 1,000 keys, all messages acknowledged, beside the bare loop."""
    url = urlsplit(services.address("mqtt"))
    place = url.hostname or "127.0.0.1", url.port or 1883
    topic = f"broadcaster-bench/{uuid4().hex}"
    options = {"host": place[0], "port": place[1], "topic": topic}
    setting = {"BACKEND": "django_broadcaster.backends.MQTTBackend", "OPTIONS": options}

    def on_backlog(measure: Callable[[], float]) -> Callable[[], float]:
        def measured() -> float:
            outbox.empty()
            outbox.fill(events)
            return measure()

        return measured

    with override_settings(OUTBOX_PUBLISHERS={"default": setting}):
        return [
            compare(
                "relay, MQTT",
                on_backlog(relays.drain),
                on_backlog(lambda: _drain(place, topic.encode())),
                wanted=">= 0.75",
                runs=runs,
            )
        ]


@contextmanager
def _connection(place: tuple[str, int]) -> Iterator[tuple[Any, int]]:
    """A socket behind the login, and how many messages may be on their way."""
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    answers: list[Any] = []
    client.on_connect = lambda *arguments: answers.append(arguments[-1])
    client.connect(*place)
    sock = client.socket()
    assert isinstance(sock, socket.socket)
    sock.setblocking(True)
    while not answers:
        client.loop_read()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    yield sock, getattr(answers[0], "ReceiveMaximum", 2**16 - 1)
    client.disconnect()


def _drain(place: tuple[str, int], topic: bytes) -> float:
    """Send every pending event to the topic; return events a second."""
    count, last = 0, 0
    with _connection(place) as (sock, window), psycopg.connect(**outbox.address()) as database:
        cursor = psycopg.Cursor(database)
        cursor.format = pq.Format.BINARY
        began = time.perf_counter()
        while rows := cursor.execute(_FETCH, [last, BATCH]).fetchall():
            _send(sock, window, [_packet(n, topic, row) for n, row in enumerate(rows, 1)])
            cursor.execute(_UPDATE, [[row[0] for row in rows]])
            database.commit()
            count += len(rows)
            last = rows[-1][0]
        elapsed = time.perf_counter() - began
    return count / elapsed


def _send(sock: socket.socket, window: int, packets: list[bytes]) -> None:
    """Send packets, and wait for all acknowledgements, each of which is to be a success."""
    sent = acknowledged = 0
    rest = b""
    while acknowledged < len(packets):
        until = min(len(packets), acknowledged + window)
        if until > sent:
            sock.sendall(b"".join(packets[sent:until]))
            sent = until
        data = rest + sock.recv(65536)
        if hasattr(socket, "TCP_QUICKACK"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        start = 0
        while len(data) >= start + 2 and len(data) >= (end := start + 2 + data[start + 1]):
            if data[start] != 0x40 or (end - start > 4 and data[start + 4] >= 0x80):
                raise RuntimeError("the server did not take a message")
            acknowledged += 1
            start = end
        rest = data[start:]


def _packet(identifier: int, topic: bytes, row: tuple[Any, ...]) -> bytes:
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
    head = pack(f">H{len(topic)}sHB", len(topic), topic, identifier, len(_CONTENT_TYPE))
    size = len(head) + len(_CONTENT_TYPE) + len(body)  # of a size from 128 to 16,383 bytes
    return b"".join((b"\x32", bytes((size & 0x7F | 0x80, size >> 7)), head, _CONTENT_TYPE, body))
