"""AMQP 0-9-1: one connection of py-amqp with one channel.

https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf and, for confirmations,
https://www.rabbitmq.com/docs/confirms. The client connects, logs in, encrypts and reads. A
publisher's messages are packed as frames by `frames`, and written together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any, Final, TypeVar

from django_broadcaster.exceptions import BackendUnavailable

from .. import amqp
from ..connected import HeldConnection
from ..errors import client_module, describe, mapped, unavailable
from .errors import ChannelRefused
from .frames import Outgoing

T = TypeVar("T")

CLIENT: Final = ("amqp", "rabbitmq")
"""The client library, and the extra that it comes with."""


class AMQPConnection(HeldConnection):
    """A connection with one channel; its methods may raise BackendUnavailable.

    `blocked` says that the server takes no messages for now: it is short of memory or disk space.
    """

    def __init__(self, options: Mapping[str, Any], *, place: str, timeout: float) -> None:
        self._place, self._timeout = place, timeout
        self.blocked = False
        self._amqp = client_module(CLIENT)
        with mapped(self._lost):
            self.connection = self._amqp.Connection(
                **options,
                socket_settings=amqp.socket_settings(timeout),
                on_blocked=lambda _: self._set_blocked(True),
                on_unblocked=lambda: self._set_blocked(False),
            )
        try:
            with mapped(self._lost):
                self.connection.connect()
            with self._guarded():
                amqp.set_timeout(self.connection, timeout)
                self.channel = self._open_channel()
        except BaseException:
            self.drop()
            raise

    def call(self, action: Callable[[Any], T]) -> T:
        """Do something with py-amqp's channel; raises ChannelRefused when the server refuses it."""
        with self._guarded():
            return action(self.channel)

    def receive(self, deadline: float) -> bool:
        """Wait for one frame of the server; return False at the deadline.

        The client's own `drain_events` does not return for a heartbeat.
        """
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            return False
        with self._guarded(), suppress(TimeoutError):
            self.connection.blocking_read(seconds)
            return True
        return False

    def catch_up(self) -> None:
        """Read what the server has said already, which may be that it closed the connection."""
        with amqp.watched(self.connection) as has_news:
            while has_news():
                self.receive(time.monotonic() + self._timeout)

    def close(self) -> None:
        """Disconnect in an orderly way."""
        with suppress(Exception):
            amqp.set_timeout(self.connection, min(self._timeout, amqp.GOODBYE_SECONDS))
            self.connection.close()
        self.drop()

    def drop(self) -> None:
        """Disconnect at once."""
        with suppress(Exception):
            amqp.set_timeout(self.connection, min(self._timeout, amqp.GOODBYE_SECONDS))
        with suppress(Exception):
            self.connection.collect()

    def abandon(self) -> None:
        """Close the socket of a connection that is the parent process's."""
        amqp.close_socket(self.connection)

    def unavailable(self, problem: str, cause: Exception | None = None) -> BackendUnavailable:
        """Return the error for a server that is away, or refuses everyone."""
        return unavailable(f"{self._place}: {problem}", cause)

    def _open_channel(self) -> Any:
        channel = self.connection.channel()
        channel.auto_decode = False  # a body need not be text
        return channel

    def _set_blocked(self, value: bool) -> None:
        self.blocked = value

    def _guarded(self) -> AbstractContextManager[None]:
        """Return the context in which the client's errors are mapped."""
        if not self.connection.connected:
            raise self.unavailable("the connection is closed")
        return mapped(self._meaning)

    def _meaning(self, error: Exception) -> Exception:
        """Return what an error of the client means.

        Whatever it makes of a server that does not keep to the protocol is a lost connection, too.
        """
        if isinstance(error, TimeoutError):
            return self.unavailable(f"no answer in {self._timeout} seconds")
        if isinstance(error, self._amqp.ChannelError) and self.connection.connected:
            return ChannelRefused(error.reply_code, str(error.reply_text))
        return self._lost(error)

    def _lost(self, error: Exception) -> BackendUnavailable:
        return self.unavailable(describe(error), error)


class Connection(AMQPConnection):
    """A publisher's connection: its channel is in confirm mode.

    on_confirm: is called with (delivery tag, whether it covers all up to it, whether it is stored).
    on_return: is called with (the message's id, the server's reason) before its confirmation.
    `is_spent` is for the caller to say that nothing more is to be sent on it.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        *,
        place: str,
        timeout: float,
        on_confirm: Callable[[int, bool, bool], None],
        on_return: Callable[[str, str], None],
    ) -> None:
        self._on_confirm, self._on_return = on_confirm, on_return
        self.is_spent = False
        self.last_tag = 0
        super().__init__(options, place=place, timeout=timeout)

    def send(self, messages: list[Outgoing], *, mandatory: bool) -> None:
        """Write messages; their tags are `last_tag + 1` and so on."""
        number, size = self.channel.channel_id, self.connection.frame_max
        parts: list[bytes] = []
        for outgoing in messages:
            parts += outgoing.frames(number, size, mandatory=mandatory)
        with self._guarded():
            self.connection.transport.write(b"".join(parts))
        self.last_tag += len(messages)

    def fits(self, outgoing: Outgoing) -> bool:
        """Return True if the properties fit in one frame: they cannot be in several."""
        size = int(self.connection.frame_max)
        return not outgoing.headers or len(outgoing.properties) + 20 <= size

    def is_fresh(self) -> bool:
        """Return False if the server closed it; raises BackendUnavailable while it is blocked."""
        try:
            self.catch_up()
        except (ChannelRefused, BackendUnavailable):
            return False
        if self.is_spent and self.blocked:
            raise self.unavailable(amqp.BLOCKED)
        return not self.is_spent

    def _open_channel(self) -> Any:
        channel = super()._open_channel()
        channel.events["basic_ack"].add(lambda tag, many: self._on_confirm(tag, many, True))
        channel.events["basic_nack"].add(lambda tag, many: self._on_confirm(tag, many, False))
        channel.events["basic_return"].add(self._returned)
        channel.confirm_select()
        return channel

    def _returned(self, error: Any, _exchange: str, _key: str, message: Any) -> None:
        self._on_return(message.properties.get("message_id", ""), str(error.reply_text))
