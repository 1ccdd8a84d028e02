"""An HTTP server that receives webhooks, and misbehaves on demand.

It shares no code with the backend or its client: it reads requests off the wire by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from .redis_server import free_port


@dataclass(slots=True)
class Request:
    """A request as it came: header names in lower case, values as they were."""

    target: str
    headers: dict[str, str]
    body: bytes
    connection: int
    method: str = "POST"


@dataclass(slots=True)
class Reply:
    """An answer to a request.

    `raw` goes out instead of a response. `cut` ends the connection behind it. `hold` keeps the
    answer back until the event is set. `endless` adds bytes to the body until nobody reads them.
    """

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    raw: bytes | None = None
    cut: bool = False
    hold: threading.Event | None = None
    endless: bool = False


Answer = Callable[[Request], Reply]


class WebhookServer:
    """Listens on a port of its own; `answer` decides, and `requests` are all that came.

    `most_at_once` is the largest number of requests that were being answered at one moment, and
    `sent` counts bytes of endless bodies.
    """

    def __init__(self, tls: ssl.SSLContext | None, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.answer: Answer = lambda request: Reply()
        self.requests: list[Request] = []
        self.connections = 0
        self.most_at_once = 0
        self.sent = 0
        self._at_once = 0
        self._tls = tls
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.start()

    @property
    def url(self) -> str:
        """Where it is, by address."""
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    @property
    def is_running(self) -> bool:
        """Whether it listens."""
        return self._thread.is_alive()

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._open)

    def paths(self) -> list[str]:
        """Return the targets of all requests, in order."""
        return [request.target for request in self.requests]

    def start(self) -> None:
        """Listen."""
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(10), "the server does not start"

    def stop(self) -> None:
        """Listen no more, and cut every connection."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)
        assert not self._thread.is_alive(), "the server does not stop"

    @contextmanager
    def away(self) -> Iterator[None]:
        """Be gone for the time of the block."""
        self.stop()
        yield
        self.start()

    def drop_connections(self) -> None:
        """Cut every connection that is open, and wait until that is done."""

        async def drop() -> None:
            for writer in tuple(self._open):
                writer.transport.abort()

        asyncio.run_coroutine_threadsafe(drop(), self._loop).result(10)

    def _run(self, started: threading.Event) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            runner.run(self._serve(started))

    async def _serve(self, started: threading.Event) -> None:
        self._stopping = asyncio.Event()
        server = await asyncio.start_server(
            self._connected, self.host, self.port, ssl=self._tls, backlog=1000
        )
        started.set()
        await self._stopping.wait()
        # Accept no more, and let what was accepted become connections: asyncio loses those that
        # are half made when their server closes.
        for listener in server.sockets:
            self._loop.remove_reader(listener.fileno())
        await _turns()
        server.close()
        for writer in tuple(self._open):
            writer.transport.abort()
        for task in tuple(self._tasks):
            task.cancel()
        await _turns()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Note a connection; no coroutine, because one that is cancelled at once never begins."""
        self._open.add(writer)
        self.connections += 1
        task = self._loop.create_task(self._converse(reader, writer, self.connections))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, writer))

    def _ended(self, task: asyncio.Task[None], writer: asyncio.StreamWriter) -> None:
        self._open.discard(writer)
        self._tasks.discard(task)
        writer.transport.abort()
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, OSError | asyncio.IncompleteReadError):
            raise error

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        while True:
            request = await _read(reader, number)
            self.requests.append(request)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            try:
                reply = self.answer(request)
                if reply.hold is not None:
                    await _until(reply.hold)
            finally:
                self._at_once -= 1
            await self._send(reply, writer)
            if reply.cut or request.headers.get("connection") == "close":
                return

    async def _send(self, reply: Reply, writer: asyncio.StreamWriter) -> None:
        if reply.raw is not None:
            writer.write(reply.raw)
        else:
            head = [f"HTTP/1.1 {reply.status} Whatever"]
            length = 10**15 if reply.endless else len(reply.body)
            given = {"Content-Length": str(length), **reply.headers}
            if reply.status == 204:
                given.pop("Content-Length")
            head += [f"{name}: {value}" for name, value in given.items()]
            writer.write("\r\n".join([*head, "", ""]).encode() + reply.body)
        await writer.drain()
        while reply.endless:
            writer.write(b"x" * 65536)
            await writer.drain()
            self.sent += 65536


async def _read(reader: asyncio.StreamReader, number: int) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, target, _ = head[0].split(" ")
    pairs = (line.split(": ", 1) for line in head[1:] if line)
    headers = {name.lower(): value for name, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(target, headers, body, number, method)


async def _turns() -> None:
    """Let everything go on that waits for nothing but its turn."""
    for _ in range(20):
        await asyncio.sleep(0)


async def _until(event: threading.Event) -> None:
    while not event.is_set():
        await asyncio.sleep(0.005)


@contextmanager
def webhook_server(
    tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
) -> Iterator[WebhookServer]:
    """Run a server for the time of the block, on a free port if none is given."""
    server = WebhookServer(tls, host, port or free_port())
    try:
        yield server
    finally:
        with contextlib.suppress(RuntimeError):  # it is stopped already
            server.stop()
