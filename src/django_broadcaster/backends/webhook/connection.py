"""One HTTP request, by aiohttp on an event loop of our own.

The loop runs in the thread that publishes, for as long as a batch takes, and keeps connections from
one batch to the next. aiohttp creates each socket through `AddressRules.socket_for`, so every
address is judged when it is connected, and TLS and `Host` have the name all the same.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import lru_cache
from typing import Any, Final, TypeVar

from django_broadcaster import __version__
from django_broadcaster.backends.credentials import TLS
from django_broadcaster.exceptions import MissingClient

from .addresses import AddressRefused, AddressRules
from .errors import Answer, Kind, answer_to
from .handshakes import REQUEST_ORIGIN, about_the_endpoint, verdict

CLIENT: Final = ("aiohttp", "webhook")
"""The client library, and the extra that it comes with."""

T = TypeVar("T")

IDLE_CONNECTIONS: Final = 200
"""About how many connections are kept open: each is a file of the process, and those are few."""

_RESOLVERS: Final = 32  # threads: a name server that is slow for one name holds up no other
_EMPTY_HANDED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_HEADERS: Final = {
    "User-Agent": f"django-broadcaster/{__version__}",
    # What a response says is not read, so it is not to be packed either.
    "Accept-Encoding": "identity",
}


class Client:
    """Sends requests; not yet connected, and closed as often as one likes.

    timeout, connect_timeout: seconds for a request as a whole, and to connect to one address.
    max_response_bytes: how much of a body is read before the connection is given up.
    tls: whom to trust, and with what certificate to connect.
    """

    def __init__(
        self,
        rules: AddressRules,
        *,
        timeout: float,
        connect_timeout: float,
        max_response_bytes: int,
        tls: TLS,
    ) -> None:
        self._rules = rules
        self._timeouts = {"total": timeout, "sock_connect": connect_timeout}
        self._max_response_bytes = max_response_bytes
        self._tls = tls
        self._runner: asyncio.Runner | None = None
        self._session: Any = None
        self._fresh: Any = None
        self._sockets = 0

    def open(self) -> None:
        """Load what is needed; raises MissingClient, or OSError for a file of `tls`."""
        if self._runner is None:
            load()
            self._context = self._tls.context()
            self._runner = asyncio.Runner(loop_factory=_new_loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something that calls `post` to its end; connections stay open behind it."""
        try:
            self.open()
            assert self._runner is not None
            # A runner's own context would be that of its first batch.
            return self._runner.run(self._with_session(work), context=copy_context())
        except BaseException:
            # Were the loop kept, requests of this batch could go on in the next one.
            work.close()
            self.close()
            raise

    def close(self) -> None:
        """End connections, the loop and its threads."""
        runner, self._runner = self._runner, None
        sessions = [each for each in (self._session, self._fresh) if each is not None]
        self._session = self._fresh = None
        if runner is not None:
            try:
                for session in sessions:
                    runner.run(_close(session))
            finally:
                runner.close()

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, keep: bool
    ) -> Answer:
        """Send one request and return what came of it; `keep` its connection for another one.

        A server may end a connection that was kept, just as the next request is sent. Then the
        request goes once more, over a new connection.
        """
        headers = headers if keep else {**headers, "Connection": "close"}
        request = {
            "data": body,
            "headers": headers,
            "allow_redirects": False,
            "skip_auto_headers": ("Content-Type",),
            "trace_request_ctx": (connection := _Connection()),
        }
        began = time.monotonic()
        try:
            return await self._post(self._session, url, request)
        except Exception as error:
            if not (connection.is_reused and _is_cut(error)):
                return _answer_about(error)
        left = max(0.001, self._timeouts["total"] - (time.monotonic() - began))
        try:
            return await self._post(
                self._fresh_session(), url, request | {"timeout": self._timeout(total=left)}
            )
        except Exception as error:
            return _answer_about(error)

    async def ask(self, url: str, headers: Mapping[str, str], origin: str) -> Answer:
        """Ask an endpoint whether it agrees to receive events; a Kind.DELIVERED says yes."""
        try:
            async with self._session.options(
                _as_it_is(url),
                headers={**headers, REQUEST_ORIGIN: origin},
                allow_redirects=False,
            ) as response:
                await self._read(response)
                return verdict(response.status, response.headers, origin)
        except Exception as error:
            return about_the_endpoint(_answer_about(error))

    async def _post(self, session: Any, url: str, request: Mapping[str, Any]) -> Answer:
        async with session.post(_as_it_is(url), **request) as response:
            await self._read(response)
            return answer_to(response.status, response.headers.get("Retry-After"))

    async def _read(self, response: Any) -> None:
        """Read a body, so that its connection can be used again; the status has decided already."""
        if response.content.at_eof():
            return
        left = self._max_response_bytes
        try:
            while left > 0:
                chunk = await response.content.read(left)
                if not chunk:
                    return
                left -= len(chunk)
        except (load().ClientError, TimeoutError):
            pass
        response.close()

    async def _with_session(self, work: Coroutine[Any, Any, T]) -> T:
        if self._session is None:
            self._session = self._new_session()
        # Connections that ended since the last batch are noticed in a few turns of the loop.
        for _ in range(3):
            await asyncio.sleep(0)
        result = await work
        if self._sockets > IDLE_CONNECTIONS:
            session, self._session, self._sockets = self._session, None, 0
            await _close(session)
        return result

    def _fresh_session(self) -> Any:
        """Return the session in which each request has a connection of its own."""
        if self._fresh is None:
            self._fresh = self._new_session(force_close=True)
        return self._fresh

    def _new_session(self, *, force_close: bool = False) -> Any:
        aiohttp = load()
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_reuseconn.append(_note_reuse)
        connector = aiohttp.TCPConnector(
            limit=0,  # the exchange counts what is in flight
            ssl=self._context,
            socket_factory=self._socket,
            force_close=force_close,
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout(),
            headers=_HEADERS,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trace_configs=[tracing],
            read_bufsize=min(self._max_response_bytes, 2**16),
        )

    def _timeout(self, **changes: float) -> Any:
        return load().ClientTimeout(**{**self._timeouts, **changes}, ceil_threshold=3600)

    def _socket(self, address_info: tuple[Any, ...]) -> Any:
        self._sockets += 1
        return self._rules.socket_for(address_info)


class _Connection:
    """Whether the connection of a request was used before."""

    is_reused = False


async def _note_reuse(session: Any, context: Any, parameters: Any) -> None:
    if context.trace_request_ctx is not None:
        context.trace_request_ctx.is_reused = True


def _is_cut(error: Exception) -> bool:
    """Return True if a connection was open and ended before an answer."""
    aiohttp = load()
    if isinstance(error, aiohttp.ClientConnectorError | TimeoutError):
        return False
    return isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)


@lru_cache(maxsize=1024)
def _as_it_is(url: str) -> Any:
    """Return a URL whose escapes nobody normalises; one that has none gets them."""
    from yarl import URL

    return URL(url, encoded=url.isascii())


def _new_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_default_executor(ThreadPoolExecutor(_RESOLVERS, "webhook-resolver"))
    return loop


async def _close(session: Any) -> None:
    await session.close()
    await asyncio.sleep(0)  # transports say goodbye in the turn after


def _answer_about(error: Exception) -> Answer:
    """Return what an error of aiohttp means.

    Some of its errors carry the URL and our headers in their text: such a text goes nowhere.
    """
    aiohttp = load()
    if isinstance(error, aiohttp.ClientConnectorError):
        return _answer_about_connecting(error)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Answer(Kind.AWAY, "no connection in time", cause=error)
    if isinstance(error, TimeoutError):
        return Answer(Kind.DOUBTFUL, "no answer in time", cause=error)
    if isinstance(error, aiohttp.InvalidURL):
        return Answer(Kind.FORBIDDEN, "its URL has no usable host")
    if isinstance(error, aiohttp.ClientConnectionError):
        return Answer(Kind.DOUBTFUL, "the connection was cut before the answer", cause=error)
    if isinstance(error, aiohttp.ClientError):
        return Answer(Kind.DOUBTFUL, "the answer is no HTTP")
    raise error


def _answer_about_connecting(error: Any) -> Answer:
    reason = error.os_error
    if isinstance(reason, AddressRefused):
        return Answer(Kind.FORBIDDEN, str(reason), cause=reason)
    if reason.errno in _EMPTY_HANDED:
        return Answer(Kind.LOCAL, f"no connection: {reason.strerror}", cause=error)
    return Answer(Kind.AWAY, f"no connection: {reason}", cause=error)


def load() -> Any:
    """Return aiohttp; raises MissingClient."""
    try:
        import aiohttp
    except ImportError as error:
        raise MissingClient(*CLIENT) from error
    return aiohttp
