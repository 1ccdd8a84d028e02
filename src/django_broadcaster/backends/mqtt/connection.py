"""A connection to an MQTT server, without a thread of its own.

paho-mqtt connects, encrypts and logs in. From then on packets are written and read here: paho's own
way costs fifty times as much for each message. Besides, paho would repeat unacknowledged messages
over the next connection, after messages that were sent later.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ..connected import HeldConnection
from ..credentials import TLS
from ..errors import client_module, describe
from .address import Address
from .errors import ConnectionLost, disconnected, server_words
from .packets import (
    DISCONNECT,
    DISCONNECT_PACKET,
    LONGEST_PACKET,
    PINGREQ_PACKET,
    PINGRESP,
    Packet,
    Reader,
)

if TYPE_CHECKING:
    from paho.mqtt.client import Client

CLIENT: Final = ("paho", "mqtt")
"""The client library, and the extra that it comes with."""

READ_BYTES: Final = 65536

FRESH_SECONDS: Final = 1.0
"""How long a connection may have been silent and is trusted without being asked."""

_QUICKACK: Final = getattr(socket, "TCP_QUICKACK", None)  # Linux has it


class Connection(HeldConnection):
    """An open connection. `send` and `receive` may raise ConnectionLost.

    window: how many messages the server lets be in flight at the same time.
    longest: bytes of the longest packet that it takes.
    keepalive: seconds without a word after which it disconnects; 0 for never.
    takes_retained: whether it keeps messages for those who subscribe later.
    session_present: whether it has kept the session of an earlier connection.
    acknowledged: how many messages it has taken; for the caller to count.
    has_refused: whether its last answer was that it did not take one; for the caller to say.
    """

    def __init__(
        self,
        client: Client,
        answer: Any,
        keepalive: int,
        timeout: float,
        *,
        session_present: bool = False,
    ) -> None:
        sock: Any = client.socket()
        if sock is None:
            raise ConnectionLost("the connection is closed", hung_up=True)
        self.window = int(getattr(answer, "ReceiveMaximum", 2**16 - 1))
        self.longest = int(getattr(answer, "MaximumPacketSize", LONGEST_PACKET))
        self.keepalive = int(getattr(answer, "ServerKeepAlive", keepalive))
        self.takes_retained = bool(getattr(answer, "RetainAvailable", 1))
        self.takes_qos_1 = getattr(answer, "MaximumQoS", 2) > 0
        self.session_present = session_present
        self.acknowledged = 0
        self.has_refused = False
        self._client = client  # closes the socket when it is finalised
        self._sock = sock
        self._timeout = timeout
        self._reader = Reader()
        self._end: ConnectionLost | None = None
        self._is_whole = True  # no packet was written in part
        self._identifier = 0
        self._last_word = time.monotonic()
        self._sock.settimeout(timeout)
        self._set(socket.TCP_NODELAY)

    @property
    def idle(self) -> float:
        """Seconds since something was sent."""
        return time.monotonic() - self._last_word

    def next_identifier(self, taken: Mapping[int, object]) -> int:
        """Return a packet identifier that is not taken."""
        while True:
            self._identifier = self._identifier % (2**16 - 1) + 1
            if self._identifier not in taken:
                return self._identifier

    def send(self, data: bytes) -> None:
        """Write it all.

        The server's answers are a few bytes for each message in flight, and wait in the system's
        buffer: neither side waits for the other one to read. Why writing failed may be in what is
        still to be read, so it is `receive` that says so.
        """
        rest = memoryview(data)
        self._is_whole = False
        try:
            while rest:
                rest = rest[self._sock.send(rest) :]
            self._is_whole = True
        except (OSError, ValueError):
            pass
        self._last_word = time.monotonic()

    def receive(self) -> list[Packet]:
        """Wait for packets."""
        packets: list[Packet] = []
        while not packets:
            if self._end is not None:
                raise self._end
            packets = self._read()
        return packets

    def is_fresh(self) -> bool:
        """Return False if the server has hung up, or may have.

        No ping is sent while there is nothing to send, so a silent connection may be lost.
        The server is asked if it was silent for `FRESH_SECONDS`, or if it has refused a message:
        then it may be about to hang up.
        """
        if 0 < self.keepalive <= self.idle:
            return False
        self._sock.setblocking(False)
        try:
            self._read()
        finally:
            self._sock.settimeout(self._timeout)
        if self._end is not None:
            return False
        if self.idle < FRESH_SECONDS and not self.has_refused:
            return True
        self.send(PINGREQ_PACKET)
        try:
            while all(packet.kind != PINGRESP for packet in self.receive()):
                pass
        except ConnectionLost:
            return False
        self.has_refused = False
        return True

    def close(self) -> None:
        """Disconnect in an orderly way."""
        if self._is_whole and self._end is None:
            with suppress(OSError, ValueError):
                self._sock.setblocking(False)
                self._sock.send(DISCONNECT_PACKET)
        self.abandon()

    def abandon(self) -> None:
        """Disconnect at once."""
        self._sock.close()

    def _read(self) -> list[Packet]:
        """Return what has come in; how the connection ended is noted, and raised afterwards."""
        try:
            data = self._sock.recv(READ_BYTES)
            self._set(_QUICKACK)
            packets = self._reader.feed(data)
        except (BlockingIOError, ssl.SSLWantReadError):
            return []
        except TimeoutError:
            self._end = ConnectionLost(f"no answer in {self._timeout} seconds")
            return []
        except (OSError, ValueError) as error:
            hung_up = isinstance(error, ConnectionError | ssl.SSLEOFError)
            self._end = ConnectionLost(describe(error), hung_up=hung_up)
            return []
        if not data:
            self._end = ConnectionLost("the server closed the connection", hung_up=True)
        for place, packet in enumerate(packets):
            if packet.kind == DISCONNECT:
                self._end = disconnected(packet)
                return packets[:place]
        return packets

    def _set(self, option: int | None) -> None:
        """Set an option of TCP; without it, it is slower.

        Small packets must not wait. With TCP_NODELAY, our messages do not wait for the server to
        confirm the one before. With TCP_QUICKACK, the server's answers do not wait for our
        confirmation, which systems delay by 40 ms. TCP_QUICKACK has to be set repeatedly.
        """
        if option is not None:
            with suppress(OSError):
                self._sock.setsockopt(socket.IPPROTO_TCP, option, 1)


Opened = TypeVar("Opened", bound=Connection)


def connect(
    kind: type[Opened],
    address: Address,
    *,
    client_id: str,
    keepalive: int,
    timeout: float,
    clean_start: bool = True,
    wanted: Mapping[str, int] | None = None,
) -> Opened:
    """Return an open connection; raises ConnectionLost, MissingClient or the client's errors.

    Args:
        kind: The class of the connection.
        address: Where the server is, and how to log in.
        client_id: The client identifier; empty if the server chooses.
        keepalive: Seconds after which the server ends a silent connection; 0 for never.
        timeout: Seconds to wait for each answer.
        clean_start: Whether a session that the server has kept is discarded.
        wanted: Further properties of the CONNECT packet, by paho's names.
    """
    paho = client_module(CLIENT, "paho.mqtt", "paho.mqtt.client")
    client = paho.Client(
        paho.CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=paho.MQTTv5,
        reconnect_on_failure=False,
    )
    client.connect_timeout = timeout
    answers: list[tuple[Any, Any, Any]] = []
    client.on_connect = lambda _client, _data, *answer: answers.append(answer)
    try:
        client.username_pw_set(address.login.username, address.login.password)
        if address.tls is not None:
            client.tls_set_context(_context(address.tls))
        client.connect(
            address.host,
            address.port,
            keepalive,
            clean_start=clean_start,
            properties=_properties(wanted) if wanted else None,
        )
        flags, reason, answer = _answer(client, answers, timeout)
        if reason.is_failure:
            raise ConnectionLost(
                f"login refused: {reason}{server_words(answer)}", code=reason.value
            )
        present = flags.session_present
        return kind(client, answer, keepalive, timeout, session_present=present)
    except BaseException:
        sock = client.socket()
        if sock is not None:
            sock.close()
        raise


def _properties(wanted: Mapping[str, int]) -> Any:
    """Return properties of a CONNECT packet in paho's terms."""
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    for name, value in wanted.items():
        setattr(properties, name, value)
    return properties


def _answer(
    client: Client, answers: list[tuple[Any, Any, Any]], timeout: float
) -> tuple[Any, Any, Any]:
    """Return the server's answer to the CONNECT: its flags, its reason code, its properties."""
    deadline = time.monotonic() + timeout
    while not answers:
        sock: Any = client.socket()
        if sock is None:
            raise ConnectionLost("the server closed the connection during the login", hung_up=True)
        if not (hasattr(sock, "pending") and sock.pending()):
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.want_write() else 0)
            with selectors.DefaultSelector() as selector:
                selector.register(sock, events)
                seconds = deadline - time.monotonic()
                if seconds <= 0 or not selector.select(seconds):
                    raise ConnectionLost(f"no answer in {timeout} seconds")
        if client.want_write():
            client.loop_write()
        client.loop_read()
    return answers[0]


def _context(tls: TLS) -> ssl.SSLContext:
    """Return the context for a connection; raises OSError or ValueError."""
    if tls.own_context is not None:
        return tls.own_context
    extra = tls.extra
    context = tls.context(key_password=extra.get("keyfile_password"))
    context.sslsocket_class = _Socket
    if "ciphers" in extra:
        context.set_ciphers(extra["ciphers"])
    if "alpn_protocols" in extra:
        context.set_alpn_protocols(extra["alpn_protocols"])
    return context


class _Socket(ssl.SSLSocket):
    """A socket that is closed when the other side is not who it should be: paho leaves it open."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise
