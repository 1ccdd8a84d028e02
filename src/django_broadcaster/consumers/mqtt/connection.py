"""A connection that receives: what the server has sent, and its acknowledgement."""

from __future__ import annotations

import selectors
import socket
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from django_broadcaster.backends.mqtt.connection import READ_BYTES, Connection
from django_broadcaster.backends.mqtt.errors import ConnectionLost
from django_broadcaster.backends.mqtt.packets import DISCONNECT_PACKET, PINGREQ_PACKET, Packet

from .incoming import PUBLISH, SUBACK, Incoming, acknowledgement, read_publish, suback_code
from .incoming import subscribe as subscribe_packet

GOODBYE_SECONDS: Final = 1.0
"""The longest to wait for the server when a connection is closed."""

WAIT_SECONDS: Final = 1.0
"""The longest to wait for packets before the connection is looked after."""


class ReceivingConnection(Connection):
    """A subscriber's connection; its methods may raise ConnectionLost.

    arrived: the messages that the server has sent, in their order.
    enough: how many of them may arrive before the rest stays at the server. Only messages of QoS 0
        come in such a number: the others wait for acknowledgements.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.arrived: deque[Incoming] = deque()
        self.enough = 1
        self._codes: dict[int, int] = {}  # of answers to a subscription, by identifier
        self._asked: float | None = None  # when the server was asked whether it is there

    def subscribe(self, topic_filter: str) -> int:
        """Subscribe to a filter; return the server's reason code."""
        identifier = self.next_identifier({})
        self._write(subscribe_packet(identifier, topic_filter))
        deadline = time.monotonic() + self._timeout
        while identifier not in self._codes:
            if time.monotonic() > deadline:
                raise ConnectionLost(f"no answer in {self._timeout} seconds")
            self._poll(WAIT_SECONDS)
        return self._codes.pop(identifier)

    def wait(self, deadline: float) -> None:
        """Wait until a message has arrived, or the deadline."""
        while not self.arrived and (seconds := deadline - time.monotonic()) > 0:
            self._poll(min(seconds, WAIT_SECONDS))
            self.keep_alive()

    def keep_alive(self) -> None:
        """Read what has arrived, and ask the server whether it is there if that is due."""
        while len(self.arrived) < self.enough and self._poll(0):
            pass
        now = time.monotonic()
        if len(self.arrived) >= self.enough:
            self._asked = None  # an answer would not be read
        if self._asked is not None and now - self._asked > self._timeout:
            raise ConnectionLost(f"no answer in {self._timeout} seconds")
        if self._asked is None and 0 < self.keepalive <= 2 * self.idle:
            self._asked = now
            self._write(PINGREQ_PACKET)

    def acknowledge(self, identifiers: Iterable[int]) -> None:
        """Acknowledge messages, in this order."""
        self._write(b"".join(map(acknowledgement, identifiers)))
        self.keep_alive()

    def close(self) -> None:
        """Disconnect, and wait until the server has read all that was sent.

        A socket that is closed with unread data takes back what the server has not read.
        """
        if self._is_whole and self._end is None:
            with suppress(OSError, ValueError):
                self._sock.settimeout(GOODBYE_SECONDS)
                self._sock.sendall(DISCONNECT_PACKET)
                deadline = time.monotonic() + GOODBYE_SECONDS
                while self._sock.recv(READ_BYTES) and time.monotonic() < deadline:
                    pass
        self.abandon()

    def drop(self) -> None:
        """Disconnect at once."""
        with suppress(OSError, ValueError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self.abandon()

    def _write(self, data: bytes) -> None:
        self.send(data)
        if not self._is_whole:
            self._poll(0)  # raises the server's reason, if it gave one
            raise ConnectionLost("the connection is closed", hung_up=True)

    def _poll(self, seconds: float) -> bool:
        """Wait for packets and take them; return False if there were none."""
        if self._end is None and not self._is_readable(seconds):
            return False
        packets = [] if self._end is not None else self._read()
        if packets:
            self._asked = None
        for packet in packets:
            self._take(packet)
        if self._end is not None:
            raise self._end
        return True

    def _is_readable(self, seconds: float) -> bool:
        if hasattr(self._sock, "pending") and self._sock.pending():
            return True
        with selectors.DefaultSelector() as selector:
            selector.register(self._sock, selectors.EVENT_READ)
            return bool(selector.select(seconds))

    def _take(self, packet: Packet) -> None:
        try:
            if packet.kind == PUBLISH:
                self.arrived.append(read_publish(packet))
            elif packet.kind == SUBACK:
                identifier, code = suback_code(packet)
                self._codes[identifier] = code
        except IndexError as error:
            self._end = ConnectionLost(f"the server does not speak MQTT 5: {error}")
