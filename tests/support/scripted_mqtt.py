"""A server that speaks just enough MQTT 5 to answer a client as a test tells it to."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

CONNACK = b"\x20\x03\x00\x00\x00"


@dataclass(frozen=True)
class Publish:
    """A PUBLISH that came in."""

    identifier: bytes
    topic: str
    payload: bytes


Answer = Callable[[Publish], bytes | None]


def puback(publish: Publish, code: int = 0) -> bytes:
    """The acknowledgement of a message, with a reason code."""
    return b"\x40\x03" + publish.identifier + bytes((code,))


def disconnect(code: int) -> bytes:
    """A DISCONNECT with a reason code."""
    return b"\xe0\x01" + bytes((code,))


class ScriptedMQTT:
    """Listens on `port`; `answer` says what to send for a message, None to hang up.

    The server hangs up, too, behind a DISCONNECT. `received` is all that came, `logins` and `pings`
    are counted. A subscription is answered with the reason code `suback`.
    """

    def __init__(self, answer: Answer, connack: bytes = CONNACK, suback: int = 1) -> None:
        self.received: list[Publish] = []
        self.logins = self.pings = 0
        self._answer = answer
        self._connack = connack
        self._suback = suback
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> ScriptedMQTT:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=10)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        """Serve one connection after the other, until the listener is closed."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open = [connection]
            with connection, connection.makefile("rb") as wire, contextlib.suppress(OSError):
                self._talk(connection, wire)

    def _talk(self, connection: socket.socket, wire: object) -> None:
        while packet := _read_packet(wire):
            kind, body = packet
            if kind == 0x10:
                self.logins += 1
                connection.sendall(self._connack)
            elif kind == 0xC0:
                self.pings += 1
                connection.sendall(b"\xd0\x00")
            elif kind == 0x80:
                connection.sendall(b"\x90\x04" + body[:2] + bytes((0, self._suback)))
            elif kind == 0x30:
                publish = _parse(body)
                self.received.append(publish)
                answer = self._answer(publish)
                if answer is None:
                    return
                connection.sendall(answer)
                if answer[:1] == b"\xe0":
                    return


def _read_packet(wire: object) -> tuple[int, bytes] | None:
    read = wire.read  # type: ignore[attr-defined]
    first = read(1)
    if not first:
        return None
    length = shift = 0
    while True:
        digit = read(1)[0]
        length |= (digit & 0x7F) << shift
        shift += 7
        if digit < 0x80:
            return first[0] & 0xF0, read(length)


def _parse(body: bytes) -> Publish:
    size = int.from_bytes(body[:2])
    topic, rest = body[2 : 2 + size].decode(), body[2 + size :]
    properties = rest[2]  # tests send fewer than 128 bytes of them
    return Publish(rest[:2], topic, rest[3 + properties :])
