"""A server that speaks NATS' protocol, and answers with what the test has written down."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

Answer = Callable[[str, bytes], bytes | None]

_STATUS = re.compile(rb"NATS/1\.0 \d+")


class ScriptedNats:
    """Answers each message with the body `answer(subject, body)`, or not at all where it is None.

    A body that begins with `NATS/1.0 ` and a status goes out as a header; one that begins with
    `-ERR ` as the server's own word. `connects` are the logins, `subjects` what came to which
    subject, in order. One connection at a time.
    """

    def __init__(self, answer: Answer, **information: Any) -> None:
        self.connects: list[Mapping[str, Any]] = []
        self.subjects: list[str] = []
        self._answer = answer
        self._information = {"max_payload": 2**20, "headers": True, **information}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"nats://127.0.0.1:{self._listener.getsockname()[1]}"
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> ScriptedNats:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, self._connection):
            if each is not None:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._listener.close()
        self._thread.join(timeout=10)

    def _serve(self) -> None:
        while True:
            try:
                self._connection, _ = self._listener.accept()
            except OSError:
                return
            with (
                contextlib.suppress(OSError),
                self._connection,
                self._connection.makefile("rb") as wire,
            ):
                self._talk(self._connection, wire)

    def _talk(self, connection: socket.socket, wire: BinaryIO) -> None:
        connection.sendall(b"INFO %b\r\n" % json.dumps(self._information).encode())
        subscriptions: dict[bytes, bytes] = {}  # the beginning of a subject: its number
        while line := wire.readline():
            operation, *words = line.split()
            if operation == b"CONNECT":
                self.connects.append(json.loads(line.partition(b" ")[2]))
            elif operation == b"PING":
                connection.sendall(b"PONG\r\n")
            elif operation == b"SUB":
                subscriptions[words[0].removesuffix(b"*")] = words[-1]
            elif operation in (b"PUB", b"HPUB"):
                body = wire.read(int(words[-1]) + 2)[:-2]
                if operation == b"HPUB":
                    body = body[int(words[-2]) :]
                self.subjects.append(words[0].decode())
                reply = words[1]
                answer = self._answer(words[0].decode(), body)
                number = next(n for start, n in subscriptions.items() if reply.startswith(start))
                if answer is not None:
                    connection.sendall(_packed(answer, reply, number))


def _packed(answer: bytes, reply: bytes, number: bytes) -> bytes:
    if answer.startswith(b"-ERR "):
        return answer + b"\r\n"
    if _STATUS.fullmatch(answer):
        head = answer + b"\r\n\r\n"
        size = len(head)
        return b"HMSG %b %b %d %d\r\n%b\r\n" % (reply, number, size, size, head)
    return b"MSG %b %b %d\r\n%b\r\n" % (reply, number, len(answer), answer)
