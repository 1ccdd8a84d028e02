"""A TCP proxy that breaks connections on demand."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class TcpProxy:
    """Listens on `port` and passes everything on to a server, until a method changes that.

    `cut_request_after` and `cut_reply_after` are bytes, counted from when they are set: the
    connection is cut as soon as that many have gone to the server, or come back from it.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = _listen(0)
        self.port = int(self._listener.getsockname()[1])
        self.cut_request_after: int | None = None
        self.cut_reply_after: int | None = None
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._run(self._accept, self._listener)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Drop all connections and refuse new ones, for the time of the block."""
        self.close()
        yield
        self._listener = _listen(self.port)
        self._run(self._accept, self._listener)

    @contextlib.contextmanager
    def cut(self, direction: str, after: int) -> Iterator[None]:
        """Cut connections after that many bytes of a "request" or a "reply", during the block."""
        setattr(self, f"cut_{direction}_after", after)
        yield
        setattr(self, f"cut_{direction}_after", None)

    def close(self) -> None:
        """Drop all connections and stop listening."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()
        # The accepting thread first: after it, no more connections and threads come.
        while self._threads:
            for connection in tuple(self._open):
                _drop(connection)
            self._threads.pop(0).join(timeout=10)
        self._open.clear()

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            self._open |= {client, server}
            self._run(self._pump, client, server, "cut_request_after")
            self._run(self._pump, server, client, "cut_reply_after")

    def _pump(self, source: socket.socket, sink: socket.socket, limit: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                left = getattr(self, limit)
                if left is not None:
                    data = data[:left]
                    setattr(self, limit, left - len(data))
                sink.sendall(data)
                if left is not None and left <= len(data):
                    break
        _drop(source)
        _drop(sink)


def _listen(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), reuse_port=False)


def _drop(connection: socket.socket) -> None:
    """End both directions, so that the thread that waits for it wakes up, too."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
