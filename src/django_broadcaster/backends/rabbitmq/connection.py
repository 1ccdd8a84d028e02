"""AMQP 0-9-1 for a publisher: one connection of py-amqp, one channel, many messages in one go.

https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf and, for confirmations,
https://www.rabbitmq.com/docs/confirms. The client connects, logs in, encrypts and reads. Frames of
messages are packed here and written together: its own way of one call and one write for each
message costs fifteen times as much.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct, pack
from typing import Any, Final

from django_broadcaster.exceptions import MissingClient

CLIENT: Final = ("amqp", "rabbitmq")
"""The client library, and the extra that it comes with."""

SHORT_BYTES: Final = 255
"""The longest name and short property in the protocol, in bytes of UTF-8."""

GOODBYE_SECONDS = 1.0
"""The longest to wait for the server when a connection is closed."""

_FRAME_HEAD: Final = Struct(">BHI")  # kind, channel, size
_FRAME_END: Final = b"\xce"
_CONTENT_HEAD: Final = Struct(">HHQ")  # class, weight, size of the body
_PUBLISH: Final = (60, 40)  # class and method
_CONTENT_TYPE, _HEADERS, _DELIVERY_MODE = 1 << 15, 1 << 13, 1 << 12
_PRIORITY, _CORRELATION_ID, _EXPIRATION, _MESSAGE_ID = 1 << 11, 1 << 10, 1 << 8, 1 << 7
_PERSISTENT: Final = b"\x02"


class LinkLost(Exception):
    """The connection is of no further use; what was not confirmed may or may not have arrived."""


class ChannelRefused(Exception):
    """The server closed the channel: it refused a message, and has ignored all behind it."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.is_about_topic = (
            "access to topic '" in text
        )  # else about the exchange, whatever its name


@dataclass(slots=True, eq=False)
class Letter:
    """One message, ready for the wire. `message_id` is empty where the id is too long to be one.

    Empty texts, and a priority of None, are properties that are left out.
    """

    exchange: str
    routing_key: str
    message_id: str
    content_type: str
    headers: Mapping[str, str | int]
    body: bytes
    priority: int | None = None
    correlation_id: str = ""
    expiration: str = ""

    @property
    def properties(self) -> bytes:
        """The content header's payload behind the body's size; a persistent message."""
        flags, parts = _DELIVERY_MODE, []
        if self.content_type:
            flags |= _CONTENT_TYPE
            parts.append(short(self.content_type))
        if self.headers:
            flags |= _HEADERS
            parts.append(_table(self.headers))
        parts.append(_PERSISTENT)
        if self.priority is not None:
            flags |= _PRIORITY
            parts.append(self.priority.to_bytes())
        if self.correlation_id:
            flags |= _CORRELATION_ID
            parts.append(short(self.correlation_id))
        if self.expiration:
            flags |= _EXPIRATION
            parts.append(short(self.expiration))
        if self.message_id:
            flags |= _MESSAGE_ID
            parts.append(short(self.message_id))
        return pack(">H", flags) + b"".join(parts)

    def frames(self, channel: int, frame_max: int, *, mandatory: bool) -> list[bytes]:
        """Return the frames that publish it: the method, the properties, and the body in pieces."""
        body = self.body
        head = _CONTENT_HEAD.pack(_PUBLISH[0], 0, len(body)) + self.properties
        parts = [
            _publish(channel, self.exchange, self.routing_key, mandatory),
            _FRAME_HEAD.pack(2, channel, len(head)), head, _FRAME_END,
        ]  # fmt: skip
        room = frame_max - 8
        for start in range(0, len(body), room):
            piece = body[start : start + room]
            parts += (_FRAME_HEAD.pack(3, channel, len(piece)), piece, _FRAME_END)
        return parts


@lru_cache(maxsize=1024)  # most events go to one of a few places
def _publish(channel: int, exchange: str, routing_key: str, mandatory: bool) -> bytes:
    """Return the method's frame."""
    flags = b"\x01" if mandatory else b"\x00"
    method = pack(">HHH", *_PUBLISH, 0) + short(exchange) + short(routing_key) + flags
    return _FRAME_HEAD.pack(1, channel, len(method)) + method + _FRAME_END


def short(text: str) -> bytes:
    """Return a short string of the protocol; `text` has at most `SHORT_BYTES`."""
    encoded = text.encode()
    return b"%c%b" % (len(encoded), encoded)


def _table(headers: Mapping[str, str | int]) -> bytes:
    fields = []
    for name, value in headers.items():
        if isinstance(value, str):
            encoded = value.encode()
            fields += [short(name), b"S", pack(">I", len(encoded)), encoded]
        elif isinstance(value, bool):
            fields += [short(name), b"t", value.to_bytes()]
        elif -(2**31) <= value < 2**31:
            fields += [short(name), b"I", pack(">i", value)]
        else:
            fields += [short(name), b"l", pack(">q", value)]
    table = b"".join(fields)
    return pack(">I", len(table)) + table


class Link:
    """A connection with one channel in confirm mode. Every method may raise LinkLost.

    on_confirm: is called with (delivery tag, whether it covers all up to it, whether it is stored).
    on_return: is called with (the message's id, the server's reason) ahead of its confirmation.
    `blocked` says that the server takes nothing for now: it is short of memory or disk space.
    `is_spent` is for the caller to say that nothing more is to be sent on it.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        timeout: float,
        on_confirm: Callable[[int, bool, bool], None],
        on_return: Callable[[str, str], None],
    ) -> None:
        self._timeout = timeout
        self._pid = os.getpid()
        self._on_confirm, self._on_return = on_confirm, on_return
        self.blocked = self.is_spent = False
        self.last_tag = 0
        self._amqp = library()
        self.connection = _connect(options, timeout, self._set_blocked)
        try:
            # What waits without a limit of its own, as a declaration does, waits no longer.
            self.connection.transport.sock.settimeout(timeout)
            self.channel = self._open_channel()
        except BaseException:
            self.drop()
            raise

    @property
    def is_inherited(self) -> bool:
        """Whether it is of another process, from which this one was forked."""
        return self._pid != os.getpid()

    def call(self, action: Callable[[Any], object]) -> None:
        """Do something with py-amqp's channel; raises ChannelRefused when the server refuses it."""
        self._guarded(lambda: action(self.channel))

    def send(self, letters: list[Letter], *, mandatory: bool) -> None:
        """Write messages; their tags are `last_tag + 1` and so on."""
        number, size = self.channel.channel_id, self.connection.frame_max
        parts: list[bytes] = []
        for letter in letters:
            parts += letter.frames(number, size, mandatory=mandatory)
        data = b"".join(parts)
        self._guarded(lambda: self.connection.transport.write(data))
        self.last_tag += len(letters)

    def fits(self, letter: Letter) -> bool:
        """Tell whether the properties fit in one frame: they cannot be in several."""
        return not letter.headers or len(letter.properties) + 20 <= int(self.connection.frame_max)

    def receive(self, deadline: float) -> None:
        """Wait for one thing that the server says; raises TimeoutError at the deadline."""
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        self._guarded(lambda: self.connection.drain_events(timeout=seconds), patient=True)

    def catch_up(self) -> None:
        """Take in what the server has said already, be it that it closed the connection."""
        while self._has_news():
            with suppress(TimeoutError):
                self.receive(time.monotonic() + self._timeout)

    def close(self) -> None:
        """Say goodbye, and disconnect."""
        if self.is_inherited:
            self.drop()
            return
        with suppress(Exception):
            self.connection.transport.sock.settimeout(min(self._timeout, GOODBYE_SECONDS))
            self.connection.close()
        self.drop()

    def drop(self) -> None:
        """Disconnect without a word; a connection of the parent process stays the parent's."""
        transport = self.connection._transport  # the property would connect again
        if transport is not None and transport.sock is not None:
            with suppress(OSError):
                transport.sock.settimeout(min(self._timeout, GOODBYE_SECONDS))
            if self.is_inherited:
                transport.sock.close()
                transport.sock = None
        with suppress(Exception):
            self.connection.collect()

    def _open_channel(self) -> Any:
        channel = self._guarded(lambda: self.connection.channel())
        channel.auto_decode = False  # a returned body is of no interest, and need not be text
        channel.events["basic_ack"].add(lambda tag, many: self._on_confirm(tag, many, True))
        channel.events["basic_nack"].add(lambda tag, many: self._on_confirm(tag, many, False))
        channel.events["basic_return"].add(self._returned)
        self._guarded(channel.confirm_select)
        return channel

    def _returned(self, error: Any, _exchange: str, _key: str, message: Any) -> None:
        self._on_return(message.properties.get("message_id", ""), str(error.reply_text))

    def _set_blocked(self, value: bool) -> None:
        self.blocked = value

    def _has_news(self) -> bool:
        sock = self.connection.transport.sock
        if hasattr(sock, "pending") and sock.pending():
            return True
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_READ)
            return bool(selector.select(0))

    def _guarded(self, action: Callable[[], Any], *, patient: bool = False) -> Any:
        """Do something with the client, and map its errors.

        Whatever else it makes of a server that does not keep to the protocol is a lost link, too.
        """
        if not self.connection.connected:
            raise LinkLost("the connection is closed")
        try:
            return action()
        except TimeoutError as error:
            if patient:
                raise
            raise LinkLost(f"no answer in {self._timeout} seconds") from error
        except self._amqp.AMQPError as error:
            if isinstance(error, self._amqp.ChannelError) and self.connection.connected:
                raise ChannelRefused(error.reply_code, str(error.reply_text)) from error
            raise LinkLost(describe(error)) from error
        except Exception as error:
            raise LinkLost(describe(error)) from error


def _connect(options: Mapping[str, Any], timeout: float, on_blocked: Callable[[bool], None]) -> Any:
    """Return a connection of py-amqp that is open; raises LinkLost."""
    # The client's default would cut a connection on which a busy server reads nothing for a second.
    patience = {}
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        patience[socket.TCP_USER_TIMEOUT] = int(timeout * 1000)
    connection = None
    try:
        connection = library().Connection(
            **options,
            socket_settings=patience,
            on_blocked=lambda _: on_blocked(True),
            on_unblocked=lambda: on_blocked(False),
        )
        connection.connect()
    except BaseException as error:
        if connection is not None:
            with suppress(Exception):
                connection.collect()
        if isinstance(error, Exception):
            raise LinkLost(describe(error)) from error
        raise
    return connection


def describe(error: Exception) -> str:
    """Return what happened, in the server's words where it has said something."""
    text = getattr(error, "reply_text", None) or str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def library() -> Any:
    """Return py-amqp; raises MissingClient."""
    try:
        import amqp  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingClient(*CLIENT) from error
    return amqp
