"""Benchmark of the MQTT backend: a whole relay beside bare loops with the same client.

Both bare loops have as many messages on their way as the server's Receive Maximum allows, as if no
key had an order. One packs them by hand and writes to paho-mqtt's socket, the other calls paho's
`publish`, which costs 80 microseconds of processor a message where packing costs one. The second is
the bare loop with the same client, which the figure to reach is about; the first shows what is left
to gain. Nobody subscribes, so that the server has as little to do as can be.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from struct import pack
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import orjson
import psycopg
from django.test.utils import override_settings
from paho.mqtt import client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from psycopg import pq

from tools import services

from . import outbox, relays
from .bare import _FETCH, _UPDATE, BATCH
from .measure import Figure, compare

Send = Callable[[paho.Client, int, bytes, list[tuple[Any, ...]]], None]

_CONTENT_TYPE = b"\x03\x00\x1capplication/cloudevents+json"


def measure(runs: int, events: int) -> list[Figure]:
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
                f"relay, MQTT, beside {name}",
                on_backlog(relays.drain),
                on_backlog(partial(_drain, place, topic.encode(), send)),
                wanted=wanted,
                runs=runs,
            )
            for name, send, wanted in (
                ("paho's publish", _publish, ">= 0.75"),
                ("packets by hand", _send, ""),
            )
        ]


@contextmanager
def _connection(place: tuple[str, int]) -> Iterator[tuple[paho.Client, int]]:
    """A client behind its login, and how many messages may be on their way."""
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.max_inflight_messages_set(2**16 - 1)  # the loops keep to the server's number
    answers: list[Any] = []
    client.on_connect = lambda *arguments: answers.append(arguments[-1])
    client.connect(*place)
    while not answers:
        client.loop(1)
    client.socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    yield client, getattr(answers[0], "ReceiveMaximum", 2**16 - 1)
    client.disconnect()


def _drain(place: tuple[str, int], topic: bytes, send: Send) -> float:
    """Send every pending event to the topic; return events a second."""
    count, last = 0, 0
    with _connection(place) as (client, window), psycopg.connect(**outbox.address()) as database:
        cursor = psycopg.Cursor(database)
        cursor.format = pq.Format.BINARY
        began = time.perf_counter()
        while rows := cursor.execute(_FETCH, [last, BATCH]).fetchall():
            send(client, window, topic, rows)
            cursor.execute(_UPDATE, [[row[0] for row in rows]])
            database.commit()
            count += len(rows)
            last = rows[-1][0]
        elapsed = time.perf_counter() - began
    return count / elapsed


def _publish(client: paho.Client, window: int, topic: bytes, rows: list[tuple[Any, ...]]) -> None:
    """Call paho's `publish`, and wait for all acknowledgements."""
    on_their_way: set[int] = set()
    client.on_publish = lambda _client, _data, identifier, *_: on_their_way.discard(identifier)
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = "application/cloudevents+json"
    name = topic.decode()
    for row in rows:
        while len(on_their_way) >= window:
            _wait(client)
        info = client.publish(name, _envelope(row), qos=1, properties=properties)
        on_their_way.add(info.mid)
    while on_their_way:
        _wait(client)


def _wait(client: paho.Client) -> None:
    client.loop(1)
    _answer_at_once(client.socket())


def _answer_at_once(sock: Any) -> None:
    if hasattr(socket, "TCP_QUICKACK"):  # or the server's answers come 40 ms late
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _send(client: paho.Client, window: int, topic: bytes, rows: list[tuple[Any, ...]]) -> None:
    """Send packets, and wait for all acknowledgements, each of which is to be a success."""
    sock: Any = client.socket()
    sock.setblocking(True)
    packets = [_packet(identifier, topic, row) for identifier, row in enumerate(rows, 1)]
    sent = acknowledged = 0
    rest = b""
    while acknowledged < len(packets):
        until = min(len(packets), acknowledged + window)
        if until > sent:
            sock.sendall(b"".join(packets[sent:until]))
            sent = until
        data = rest + sock.recv(65536)
        _answer_at_once(sock)
        start = 0
        while len(data) >= start + 2 and len(data) >= (end := start + 2 + data[start + 1]):
            if data[start] != 0x40 or (end - start > 4 and data[start + 4] >= 0x80):
                raise RuntimeError("the server did not take a message")
            acknowledged += 1
            start = end
        rest = data[start:]


def _packet(identifier: int, topic: bytes, row: tuple[Any, ...]) -> bytes:
    body = _envelope(row)
    head = pack(f">H{len(topic)}sHB", len(topic), topic, identifier, len(_CONTENT_TYPE))
    size = len(head) + len(_CONTENT_TYPE) + len(body)  # of a size from 128 to 16,383 bytes
    return b"".join((b"\x32", bytes((size & 0x7F | 0x80, size >> 7)), head, _CONTENT_TYPE, body))


def _envelope(row: tuple[Any, ...]) -> bytes:
    _, event_id, source, event_type, subject, moment, content_type, data, key = row
    return orjson.dumps(
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
