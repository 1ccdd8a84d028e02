"""The relay to an MQTT server beside two bare loops with the same client.

Both bare loops have as many unacknowledged messages as the server's Receive Maximum allows, without
an order. One calls paho's `publish`, which takes 80 microseconds of processor a message; the ratio
to reach is about this one. The other packs messages by hand and writes to paho-mqtt's socket, which
takes one microsecond; it shows what is left to gain. The topic has no subscriber.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from struct import pack
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from paho.mqtt import client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tools import services

from . import bare, outbox, relays
from .measure import Figure, compare

Send = Callable[[paho.Client, int, bytes, Sequence[Any]], None]

_CONTENT_TYPE = b"\x03\x00\x1capplication/cloudevents+json"


def measure(runs: int, events: int) -> list[Figure]:
    """Compare one relay, 1,000 keys, every message acknowledged, with both bare loops."""
    url = urlsplit(services.address("mqtt"))
    place = url.hostname or "127.0.0.1", url.port or 1883
    topic = f"broadcaster-bench/{uuid4().hex}"
    relay = partial(relays.drain_to, "MQTTBackend", host=place[0], port=place[1], topic=topic)
    return [
        compare(
            f"relay, MQTT, beside {name}",
            partial(outbox.on_backlog, events, relay),
            partial(outbox.on_backlog, events, partial(_bare, place, topic.encode(), send)),
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
    """Connect; yield a client and how many unacknowledged messages the server allows."""
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


def _bare(place: tuple[str, int], topic: bytes, send: Send) -> float:
    """Send every pending event to the topic; return events a second."""
    with _connection(place) as (client, window):
        return bare.drain(partial(send, client, window, topic))


def _publish(client: paho.Client, window: int, topic: bytes, rows: Sequence[Any]) -> None:
    """Call paho's `publish`, and wait for all acknowledgements."""
    unacknowledged: set[int] = set()
    client.on_publish = lambda _client, _data, identifier, *_: unacknowledged.discard(identifier)
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = "application/cloudevents+json"
    name = topic.decode()
    for row in rows:
        while len(unacknowledged) >= window:
            _wait(client)
        info = client.publish(name, bare.envelope(row), qos=1, properties=properties)
        unacknowledged.add(info.mid)
    while unacknowledged:
        _wait(client)


def _wait(client: paho.Client) -> None:
    client.loop(1)
    _answer_at_once(client.socket())


def _answer_at_once(sock: Any) -> None:
    if hasattr(socket, "TCP_QUICKACK"):  # or the server's answers come 40 ms late
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _send(client: paho.Client, window: int, topic: bytes, rows: Sequence[Any]) -> None:
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


def _packet(identifier: int, topic: bytes, row: Sequence[Any]) -> bytes:
    body = bare.envelope(row)
    head = pack(f">H{len(topic)}sHB", len(topic), topic, identifier, len(_CONTENT_TYPE))
    size = len(head) + len(_CONTENT_TYPE) + len(body)  # of a size from 128 to 16,383 bytes
    return b"".join((b"\x32", bytes((size & 0x7F | 0x80, size >> 7)), head, _CONTENT_TYPE, body))
