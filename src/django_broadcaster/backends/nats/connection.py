"""A connection of nats-py, with the private event loop that it lives in.

Between two batches the loop stands still and does not answer the server's pings, so a connection
that has rested is tried first.

nats-py reconnects by itself and then sends again what it had not got rid of. That is switched off:
the relay decides what is sent again, and a lost connection ends a batch at once. The backend sends
messages over it, and the consumer receives them.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson

from django_broadcaster.exceptions import BackendUnavailable, MissingClient

from ..connected import HeldConnection
from ..errors import client_module, mapped, unavailable
from ..event_loop import EventLoop

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js.api import StreamInfo

CLIENT: Final = ("nats", "nats")
"""The client library, and the extra that it comes with."""

T = TypeVar("T")
OnMessage = Callable[[bytes, bytes, bytes, bytes], Awaitable[None]]
OnAnswer = Callable[[int, bytes, bytes], None]
OnDelivery = Callable[[bytes, bytes, bytes, bytes], None]

RESTED_SECONDS: Final = 1.0
"""After so long without use, a connection is tried before it is trusted."""

CLOSE_SECONDS: Final = 1.0
"""The longest that an orderly disconnect takes, in seconds."""

_DENIED = re.compile(r'permissions violation for publish to "(.*?)"')


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message for NATS: `headers` as they are sent, with the line that begins them.

    `is_own` says that the subject is the only one that the backend has.
    """

    subject: str
    headers: bytes
    body: bytes
    is_own: bool

    @property
    def size(self) -> int:
        """The bytes of the body."""
        return len(self.body)


class Connection(HeldConnection):
    """One connection, used by one thread at a time.

    `options` are those of nats-py's `connect`, `place` says where the servers are in errors.
    Whatever goes wrong with the connection is raised as BackendUnavailable. After that, or after
    an interrupt, the only thing to do with a connection is to close it.

    While a batch is being sent, `on_answer` is called with the token, the body and the headers of
    each message to the inbox. `on_denied` is called with a subject, in lower case, that the server
    does not let us publish to. A message of a stream, which was requested, is for `on_delivery`: it
    is called with the subject, the one to reply to, the body and the headers. None of them may ask
    the server anything: the loop that calls them would have to read the answer.
    """

    def __init__(
        self, options: Mapping[str, Any], *, place: str, timeout: float, encrypted: bool
    ) -> None:
        self.timeout = timeout
        self._options = options
        self._place = place
        self._loop = EventLoop()
        self._client: Any = _new_client(encrypted=encrypted)
        self._error: BaseException | None = None
        self._denied = ""
        self._used = 0.0
        self._tokens = count()
        self._inbox = b""
        self.on_answer: OnAnswer | None = None
        self.on_denied: Callable[[str], None] | None = None
        self.on_delivery: OnDelivery | None = None

    # --- From the caller's thread ------------------------------------------------------------

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end."""
        return self._loop.run(work)

    def open(self) -> None:
        """Connect; raises BackendUnavailable, or MissingClient for the packages that keys need."""
        with mapped(self._failure_to_connect):
            self.run(self._connect())

    def is_fresh(self) -> bool:
        """Return False if the connection is lost; one that has rested is tried."""
        if time.monotonic() - self._used > RESTED_SECONDS:
            try:
                self.run(self.ask(self._client.flush(timeout=self.timeout)))
            except BackendUnavailable:
                return False
        return True

    def close(self) -> None:
        """Disconnect in an orderly way, without waiting for a server that does not answer."""
        try:
            self.run(self._disconnect())
        finally:
            self._loop.close()

    def abandon(self) -> None:
        """Close the sockets of a connection that is the parent process's."""
        self._loop.abandon()

    # --- Within the loop ---------------------------------------------------------------------

    @property
    def max_payload(self) -> int:
        """The server's limit for the headers and the body of a message, in bytes."""
        return int(self._client.max_payload)

    def next_token(self) -> int:
        """Return what tells the answer to a message from all others."""
        return next(self._tokens)

    async def publish(self, outgoing: Outgoing, token: int) -> None:
        """Send a message whose answer is to have that token."""
        headers, body = outgoing.headers, outgoing.body
        await self._client.send(
            b"HPUB %b %b.%d %d %d\r\n%b%b\r\n" % (
                outgoing.subject.encode(), self._inbox, token, len(headers),
                len(headers) + len(body), headers, body,
            )
        )  # fmt: skip

    async def request(self, subject: str, token: int, body: bytes) -> None:
        """Send a request whose answers are to have that token."""
        await self._client.send(
            b"PUB %b %b.%d %d\r\n%b\r\n" % (subject.encode(), self._inbox, token, len(body), body)
        )

    async def publish_to_each(self, subjects: Iterable[bytes], body: bytes) -> None:
        """Send a message without an answer to each subject; return when the server has read all."""
        rest = b" %d\r\n%b\r\n" % (len(body), body)
        await self._client.send(b"".join(b"PUB %b%b" % (each, rest) for each in subjects))
        await self.flush()

    async def stop_listening(self) -> None:
        """Tell the server that no more answers are wanted; return when the last one was read."""
        await self._client.stop_listening()
        await self.flush()

    async def flush(self) -> None:
        """Wait until the server has read what was sent."""
        await self.ask(self._client.flush(timeout=self.timeout))
        self.check()

    def check(self) -> None:
        """Raise BackendUnavailable if the connection is lost, or something was not permitted."""
        if self.is_lost:
            raise self.lost()
        if self._denied:
            raise self.unavailable(self._denied)

    async def ask_jetstream(self, question: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer of JetStream's API, which may be an error."""
        packed = orjson.dumps(body) if body else b""
        request = self._client.request(f"$JS.API.{question}", packed, timeout=self.timeout)
        answer = await self.ask(request)
        found: dict[str, Any] = orjson.loads(answer.data)
        return found

    @property
    def server_version(self) -> tuple[int, int]:
        """The major and the minor version of the server."""
        version = self._client.connected_server_version
        return version.major, version.minor

    async def stream_info(self, name: str) -> StreamInfo | None:
        """Return what the server says of a stream, None if there is none."""
        from nats.js.errors import NotFoundError

        try:
            return await self.ask(self._jetstream().stream_info(name))
        except NotFoundError:
            return None

    async def add_stream(self, config: Mapping[str, Any]) -> StreamInfo:
        """Make a stream; raises BackendUnavailable with the server's reason, or TypeError."""
        from nats.js.api import StreamConfig
        from nats.js.errors import APIError

        wanted = StreamConfig(**config)
        try:
            return await self.ask(self._jetstream().add_stream(wanted))
        except APIError as error:
            raise self.unavailable(error) from error

    async def ask(self, question: Coroutine[Any, Any, T]) -> T:
        """Return the server's answer; raises BackendUnavailable when none comes or it is lost."""
        from nats.errors import NoRespondersError
        from nats.js.errors import APIError, ServiceUnavailableError

        task = asyncio.ensure_future(question)
        try:
            async with asyncio.timeout(self.timeout):
                while not (task.done() or self.is_lost or self._denied):
                    await asyncio.wait([task], timeout=0.02)
            if task.done():
                return task.result()
            if self._denied:
                raise PermissionError(self._denied)
        except (NoRespondersError, ServiceUnavailableError) as error:
            raise self.unavailable("JetStream is not available") from error
        except APIError:
            raise
        except Exception as error:
            raise self.unavailable(self._error or error) from error
        finally:
            await _cancel(task)
        raise self.lost()

    @property
    def is_lost(self) -> bool:
        """Whether the connection is gone, or has failed."""
        return self._error is not None or not self._client.is_connected

    def lost(self) -> BackendUnavailable:
        """Return the error for a connection that is lost."""
        error = self._error or self._client.last_error
        return self.unavailable(f"the connection is lost ({_text(error)})", error)

    def unavailable(self, reason: object, cause: BaseException | None = None) -> BackendUnavailable:
        """Return the error that names the servers, without credentials."""
        return unavailable(f"NATS at {self._place}: {_text(reason)}", cause)

    def _failure_to_connect(self, error: Exception) -> Exception:
        if isinstance(error, ImportError):
            return MissingClient(error.name or "nkeys", "nats")
        return self.unavailable(error)

    def touch(self) -> None:
        """Note that the server has answered now."""
        self._used = time.monotonic()

    def distrust(self) -> None:
        """Count the connection as lost: the server may yet answer what was given up."""
        self._error = self._error or TimeoutError()

    async def _connect(self) -> None:
        servers = self._options["servers"]
        async with asyncio.timeout(self.timeout):
            try:
                await self._client.connect(
                    **self._options,
                    error_cb=self._on_error,
                    allow_reconnect=False,
                    # Each server is tried twice, without a pause, and then no more.
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=self.timeout / len(servers),
                )
            except Exception as error:
                # The client says that no server is left; the last server's error is the reason.
                if self._error is None or isinstance(error, ImportError):
                    raise
                raise self._error from error
        self._error = None
        inbox = self._client.new_inbox()
        self._inbox = inbox.encode()
        await self._client.listen(f"{inbox}.*", self._on_message)
        await self.ask(self._client.flush(timeout=self.timeout))
        self.touch()

    async def _disconnect(self) -> None:
        if not self.is_lost:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._client.close()
        # nats-py's tasks end with the loop.
        _abort(self._client)
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the transport has seen its end

    def _jetstream(self) -> Any:
        return self._client.jetstream(timeout=self.timeout)

    async def _on_message(self, subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
        try:
            if reply and self.on_delivery is not None:
                self.on_delivery(subject, reply, body, headers)
            elif self.on_answer is not None:
                self.on_answer(int(subject[len(self._inbox) + 1 :]), body, headers)
        except Exception as error:  # nats-py would stop listening, and say nothing
            self._error = error

    async def _on_error(self, error: Exception) -> None:
        """Receive an error that has no other way: a lost connection, or a refused subject."""
        text = str(error)
        if "permissions violation" not in text.lower():
            self._error = error
            return
        denied = _DENIED.search(text.lower())
        if denied is None or self.on_denied is None or denied[1].startswith("$js."):
            self._denied = text  # our inbox, or a question
        else:
            self.on_denied(denied[1])


def _new_client(*, encrypted: bool) -> Any:
    """Return a client of nats-py, not yet connected; raises MissingClient."""
    nats = client_module(CLIENT, "nats.errors", "nats.aio.client")

    class StrictClient(nats.Client):  # type: ignore[misc, name-defined]
        """nats-py's client with a shorter way for messages and their answers, and strict TLS.

        What it overrides and calls is not nats-py's public interface. It saves two thirds of the
        time that `publish_async` takes for a message. No header is parsed, and no future, queue
        or task is between the socket and the window. The tests say if a release changes it.
        """

        _answers: tuple[int, OnMessage] | None = None

        async def listen(self, subject: str, on_message: OnMessage) -> None:
            """Subscribe, and call `on_message` from where the socket is read."""
            subscription = await self.subscribe(subject)
            self._answers = subscription._id, on_message

        async def stop_listening(self) -> None:
            """End the subscription; what the server has sent before is still received."""
            if self._answers is not None:
                await self.send(b"UNSUB %d\r\n" % self._answers[0])

        async def send(self, packed: bytes) -> None:
            """Send a command of the protocol, packed already."""
            await self._send_command(packed)
            if self._flush_queue is not None and self._flush_queue.empty():
                await self._flush_pending()

        async def _process_msg(
            self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
        ) -> None:
            if self._answers is not None and self._answers[0] == sid:
                await self._answers[1](subject, reply, data, headers or b"")
            else:
                await super()._process_msg(sid, subject, reply, data, headers)

        def _connect_command(self) -> bytes:
            """Send no credentials over a connection that was to be encrypted, and is not.

            nats-py goes on in plain text when the server, or an impostor, says that it
            has no TLS.
            """
            if encrypted and not self._server_info.get("tls_required"):
                raise nats.errors.SecureConnWantedError
            command: bytes = super()._connect_command()
            return command

    return StrictClient()


def _abort(client: Client) -> None:
    """Drop the connection: closing it would wait until all that was written is sent."""
    writer = getattr(getattr(client, "_transport", None), "_io_writer", None)
    if writer is not None:
        writer.transport.abort()


async def _cancel(task: asyncio.Future[Any]) -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=CLOSE_SECONDS)


def _text(reason: object) -> str:
    if not isinstance(reason, BaseException):
        return str(reason)
    text = str(reason).removeprefix("nats: ")
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    return text or type(reason).__name__
