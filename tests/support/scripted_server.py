"""A server that speaks Redis' protocol, and answers with what the test has written down."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import BinaryIO

Command = list[bytes]


class ScriptedRedis:
    """Sends `answer(command)` for each command, in RESP; `+OK` where that is None.

    One connection at a time. `commands` is everything that was received.
    """

    def __init__(self, answer: Callable[[Command], bytes | None]) -> None:
        self.commands: list[Command] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> ScriptedRedis:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, self._connection):
            if each is not None:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._listener.close()
        self._thread.join(timeout=10)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._connection, _ = self._listener.accept()
                with self._connection, self._connection.makefile("rb") as wire:
                    self._talk(self._connection, wire)

    def _talk(self, connection: socket.socket, wire: BinaryIO) -> None:
        with contextlib.suppress(OSError):
            for command in _commands(wire):
                self.commands.append(command)
                connection.sendall(self._answer(command) or b"+OK\r\n")


def _commands(wire: BinaryIO) -> Iterator[Command]:
    """Yield the commands until the client is gone: arrays of strings with their lengths."""
    while header := wire.readline():
        command = []
        for _ in range(int(header[1:])):
            length = int(wire.readline()[1:])
            command.append(wire.read(length + 2)[:-2])
        yield command
