"""One HTTP request, by aiohttp on an event loop of our own.

The loop keeps connections from one batch to the next. aiohttp creates each socket through
`AddressRules.socket_for`, so every address is judged when it is connected, and TLS and `Host` have
the name all the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final, TypeVar

from django_broadcaster import __version__
from django_broadcaster.backends.credentials import TLS

from ..connected import HeldConnection
from ..errors import client_module
from ..event_loop import EventLoop
from .addresses import AddressRules
from .errors import CLIENT, Answer, Kind, answer_about, answer_to
from .handshakes import REQUEST_ORIGIN, about_the_endpoint, verdict
from .responses import READ_AHEAD, details_of
from .urls import keys_of

T = TypeVar("T")

IDLE_CONNECTIONS: Final = 200
"""About how many connections are kept open: each is a file of the process, and those are few."""

_RESOLVERS: Final = 32  # threads: a name server that is slow for one name holds up no other
_HEADERS: Final = {
    "User-Agent": f"django-broadcaster/{__version__}",
    # A response is not decompressed, so it is not to be packed either.
    "Accept-Encoding": "identity",
}


class Connection(HeldConnection):
    """Sends requests, over connections that it opens as they are needed.

    Args:
        timeout, connect_timeout: Seconds for a request as a whole, and to connect to one address.
        max_response_bytes: The bytes of a body that are read before the connection is closed.
        keep_response: Whether the beginning of the body of a failed request becomes its details.
        tls: The authorities to trust, and the certificate to connect with.

    Raises:
        MissingClient: aiohttp is not installed.
        OSError: A file of `tls` can't be read.
    """

    def __init__(
        self,
        rules: AddressRules,
        *,
        timeout: float,
        connect_timeout: float,
        max_response_bytes: int,
        keep_response: bool,
        tls: TLS,
    ) -> None:
        self._rules = rules
        self._timeouts = {"total": timeout, "sock_connect": connect_timeout}
        self._max_response_bytes = max_response_bytes
        self._keep_response = keep_response
        load()
        self._context = tls.context()
        self._loop = EventLoop(ThreadPoolExecutor(_RESOLVERS, "webhook-resolver"))
        self._session: Any = None
        self._fresh: Any = None
        self._sockets = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something that calls `post` to its end; connections stay open afterwards."""
        return self._loop.run(self._with_session(work))

    def close(self) -> None:
        """End connections, the loop and its threads."""
        try:
            self._loop.run(self._end())
        finally:
            self._loop.close()

    def drop(self) -> None:
        """End what was interrupted, and then the connections."""
        try:
            self._loop.cancel()
        finally:
            self.close()

    def abandon(self) -> None:
        """Close this process's copies of the sockets."""
        self._loop.abandon()

    async def post(
        self,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        keep: bool,
        secret: Collection[str] = (),
    ) -> Answer:
        """Send one request and return what came of it; `keep` its connection for another one.

        A server may end a connection that was kept, just as the next request is sent. Then the
        request goes once more, over a new connection. `secret` texts are masked in a response.
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
            answer, response = await self._post(self._session, url, request)
        except Exception as error:
            answer, response = answer_about(error), b""
            if connection.is_reused and _is_cut(error):
                left = max(0.001, self._timeouts["total"] - (time.monotonic() - began))
                again = request | {"timeout": self._timeout(total=left)}
                answer, response = await self._post_anew(url, again)
        if answer.kind is Kind.DELIVERED:
            return answer
        details = details_of(time.monotonic() - began, response, {*keys_of(url), *secret})
        return replace(answer, details=details)

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
            return about_the_endpoint(answer_about(error))

    async def _post_anew(self, url: str, request: Mapping[str, Any]) -> tuple[Answer, bytes]:
        try:
            return await self._post(self._fresh_session(), url, request)
        except Exception as error:
            return answer_about(error), b""

    async def _post(
        self, session: Any, url: str, request: Mapping[str, Any]
    ) -> tuple[Answer, bytes]:
        """Return the answer, and the beginning of its body if that is to be kept."""
        async with session.post(_as_it_is(url), **request) as response:
            beginning = await self._read(response)
            answer = answer_to(response.status, response.headers.get("Retry-After"))
            return answer, beginning if self._keep_response else b""

    async def _read(self, response: Any) -> bytes:
        """Read a body, so that its connection can be used again, and return its beginning.

        The status has decided already.
        """
        beginning = b""
        if response.content.at_eof():
            return beginning
        left = self._max_response_bytes
        try:
            while left > 0:
                chunk = await response.content.read(left)
                if not chunk:
                    return beginning
                beginning += chunk[: READ_AHEAD - len(beginning)]
                left -= len(chunk)
        except (load().ClientError, TimeoutError):
            pass
        response.close()
        return beginning

    async def _end(self) -> None:
        """Close the sessions. An interrupted batch would go on and open another one."""
        interrupted = asyncio.all_tasks() - {asyncio.current_task()}
        for task in interrupted:
            task.cancel()
        await asyncio.gather(*interrupted, return_exceptions=True)
        for session in (self._session, self._fresh):
            if session is not None:
                await _close(session)

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
    """Return a URL whose escapes stay as they are; one that has none gets them."""
    from yarl import URL

    return URL(url, encoded=url.isascii())


async def _close(session: Any) -> None:
    await session.close()
    await asyncio.sleep(0)  # transports say goodbye in the turn after


def load() -> Any:
    """Return aiohttp; raises MissingClient."""
    return client_module(CLIENT)
