"""The consumer of MQTT: its options, its session, and what becomes of each message."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from math import inf
from ssl import SSLContext
from typing import Any, ClassVar, Final, NamedTuple

from django_broadcaster.backends.connected import HEALTH_SECONDS
from django_broadcaster.backends.errors import describe, mapped, unavailable
from django_broadcaster.backends.mqtt.address import read_address
from django_broadcaster.backends.mqtt.connection import CLIENT, connect
from django_broadcaster.backends.mqtt.errors import ConnectionLost, reason_text
from django_broadcaster.backends.mqtt.names import filter_problem
from django_broadcaster.backends.mqtt.packets import LONGEST_EXPIRY
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import BackendConfigurationError

from ..base import Consumer, Delivery, ReceivedMessage
from .connection import ReceivingConnection
from .incoming import QOS_1, Incoming

logger = logging.getLogger("django_broadcaster.consumers")

WEEK: Final = 7 * 24 * 3600

MOST_UNACKNOWLEDGED: Final = 2**16 - 1
"""The largest Receive Maximum of the protocol."""

NEVER_ALLOWED: Final = frozenset({0x85, 0x86, 0x87, 0x8A, 0x8C})
"""Reason codes of a login that is wrong: the identifier, the password, the authorization."""

_NOT_SUPPORTED: Final = frozenset({0x8F, 0x9E, 0xA2})
"""Reason codes of a filter that the server refuses to every client."""


class Receipt(NamedTuple):
    """The connection over which a message arrived, and its packet identifier; 0 for QoS 0."""

    connection: ReceivingConnection
    identifier: int


class MQTTConsumer(Consumer):
    """Receives the messages of a subscription of MQTT 5, with QoS 1.

    Args:
        topic: The filter of topics to subscribe to; it may have the wildcards `+` and `#`.
        group: The name of the receivers that read together. For an ordered consumer it is the
            client identifier, so the server has one session for all of them. With
            `"ordered": False` it is the name of a shared subscription.
        client_id: The client identifier, instead of the group. With `"ordered": False` it must be
            given, and be another one in each process.
        session_expiry: Seconds for which the server keeps the session, and collects messages,
            while no receiver is connected. 4294967295 is for ever.
        host, port: The server. The default port is 1883, or 8883 with TLS.
        username, password: The credentials.
        tls: True for an encrypted connection, a dictionary of `ca_file`, `cert_file`, `key_file`,
            `verify` and `check_hostname`, or an `ssl.SSLContext`. The dictionary may also have
            paho's `keyfile_password`, `ciphers` and `alpn_protocols`.
        keepalive: Seconds after which the server ends a silent connection; 0 for never. The
            server's own value takes precedence.
        timeout: Seconds to wait for a connection, and for each answer.

    At most twice as many messages as one call of `receive` asks for are unacknowledged.
    """

    system: ClassVar[str] = "mqtt"
    client_library = CLIENT

    def __init__(
        self,
        *,
        topic: str,
        group: str,
        client_id: str = "",
        session_expiry: int = WEEK,
        host: str = "localhost",
        port: int | None = None,
        username: str | None = None,
        password: str | None = None,
        tls: bool | Mapping[str, Any] | SSLContext = False,
        keepalive: int = 60,
        timeout: float = 5.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        read = self.read
        self._address = read_address(
            read, host=host, port=port, username=username, password=password, tls=tls
        )
        self.topic = topic
        read.check("topic", filter_problem(topic))
        self.group = read.text("group", group, plain=True)
        if not self.ordered and set(group) & set("/+#"):
            read.refuse("group", f"must not contain '/', '+' or '#', not {group!r}")
        self.client_id = read.text("client_id", client_id, empty=True, plain=True)
        if not self.ordered and not client_id:
            problem = "must be given for 'ordered': False, and be another one in each process"
            read.refuse("client_id", problem)
        self.session_expiry = read.integer(
            "session_expiry", session_expiry, 1, LONGEST_EXPIRY, unit="seconds"
        )
        self.keepalive = read.integer("keepalive", keepalive, 0, 2**16 - 1, unit="seconds")
        self.timeout = read.seconds("timeout", timeout)
        self._connection: ReceivingConnection | None = None
        self._limit = 0  # the largest that `receive` was called with
        self._had_session = False
        self._is_done: dict[int, bool] = {}
        """Whether each message that `receive` has returned is acknowledged, in their order."""

    # --- The contract ------------------------------------------------------------------------

    def open(self) -> None:
        """Connect to the session, and subscribe."""
        self.close()
        maximum = min(2 * self._limit or 1, MOST_UNACKNOWLEDGED)
        with self._guarded():
            connection = self._connect(
                self.client_id or self.group,
                clean_start=False,
                wanted={
                    "SessionExpiryInterval": self.session_expiry,
                    "ReceiveMaximum": maximum,
                },
            )
            connection.enough = maximum + 1
            try:
                self._subscribe(connection)
            except BaseException:
                connection.drop()
                raise
        self._report_session(connection)
        self._connection = connection

    def close(self) -> None:
        """Disconnect; the server keeps the session, and sends again what is unacknowledged."""
        connection, self._connection = self._connection, None
        self._is_done.clear()
        if connection is not None:
            connection.close()

    def receive(self, limit: int, seconds: float) -> list[Delivery]:
        """Return the messages that have arrived, at least one if any arrives within the time."""
        deadline = time.monotonic() + seconds
        connection = self._opened()
        if limit > self._limit and not self._is_done:
            self._limit = limit
            self.open()  # the number of unacknowledged messages is part of CONNECT
            connection = self._opened()
        with self._guarded():
            connection.wait(deadline)
            connection.keep_alive()
        arrived = connection.arrived
        taken = [arrived.popleft() for _ in range(min(limit, len(arrived)))]
        return [self._delivery(connection, each) for each in taken]

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge messages in the order in which they arrived, as the protocol demands.

        One that arrived after an unacknowledged message waits for that.
        """
        connection = self._opened()
        for delivery in deliveries:
            receipt: Receipt = delivery.receipt
            if receipt.connection is connection and receipt.identifier in self._is_done:
                self._is_done[receipt.identifier] = True
        ready = []
        for identifier, is_done in self._is_done.items():
            if not is_done:
                break
            ready.append(identifier)
        for identifier in ready:
            del self._is_done[identifier]
        with self._guarded():
            connection.acknowledge(ready)

    def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Keep the connection alive; the server sends nothing again while it lasts."""
        with self._guarded():
            self._opened().keep_alive()

    def origins(self) -> Sequence[Mapping[str, str]]:
        """Return the topic filter."""
        return [{"topic": self.topic}]

    def event_of(self, message: ReceivedMessage) -> CloudEvent:
        """Read a CloudEvent by the binding for MQTT."""
        return CloudEvent.from_mqtt(message.headers, message.body, message.content_type or None)

    def health_check(self) -> bool:
        """Log in with another client identifier: the session's own would be cut off."""
        try:
            self._connect("", within=HEALTH_SECONDS).close()
        except Exception:
            return False
        return True

    @property
    def redelivery_seconds(self) -> float | None:
        """The time for which the server keeps the session; None for ever."""
        return None if self.session_expiry == LONGEST_EXPIRY else float(self.session_expiry)

    # --- The session -------------------------------------------------------------------------

    def _connect(
        self,
        client_id: str,
        *,
        within: float = inf,
        clean_start: bool = True,
        wanted: Mapping[str, int] | None = None,
    ) -> ReceivingConnection:
        return connect(
            ReceivingConnection,
            self._address,
            client_id=client_id,
            keepalive=self.keepalive,
            timeout=min(self.timeout, within),
            clean_start=clean_start,
            wanted=wanted,
        )

    def _opened(self) -> ReceivingConnection:
        if self._connection is None:
            raise unavailable(f"{self._address.place}: the consumer is not open")
        return self._connection

    def _subscribe(self, connection: ReceivingConnection) -> None:
        """Subscribe, also where the session has the subscription: the topic may be another one.

        Raises:
            ConnectionLost: The server refuses it for now.
            BackendConfigurationError: The server refuses it, or takes no messages of QoS 1.
        """
        topic_filter = self.topic if self.ordered else f"$share/{self.group}/{self.topic}"
        code = connection.subscribe(topic_filter)
        if code == QOS_1:
            return
        problem = f"the server refuses {topic_filter!r}: {reason_text('SUBACK', code, b'')}"
        if code < QOS_1:
            problem = f"the server sends messages of {topic_filter!r} with QoS 0 only"
        if code < QOS_1 or code in _NOT_SUPPORTED | NEVER_ALLOWED:
            raise self.option_error("topic", problem)
        raise ConnectionLost(problem, code=code)

    def _report_session(self, connection: ReceivingConnection) -> None:
        """Log that messages may have been lost, if the server has forgotten the session."""
        if self._had_session and not connection.session_present:
            logger.warning(
                "Consumer %r: %s has no session %r any more; messages published since the last "
                "connection are lost. Raise 'session_expiry', and let the server store sessions.",
                *(self.alias, self._address.place, self.client_id or self.group),
            )
        self._had_session = True

    # --- Messages ----------------------------------------------------------------------------

    def _delivery(self, connection: ReceivingConnection, incoming: Incoming) -> Delivery:
        if incoming.identifier:
            self._is_done[incoming.identifier] = False
        message = ReceivedMessage(
            body=incoming.body,
            headers=incoming.headers,
            content_type=incoming.content_type,
            origin=incoming.topic,
        )
        receipt = Receipt(connection, incoming.identifier)
        if incoming.problem:
            return Delivery(message, receipt, problem=incoming.problem)
        return self.delivery(message, receipt)

    # --- Errors ------------------------------------------------------------------------------

    def _guarded(self) -> AbstractContextManager[None]:
        return mapped(self._meaning)

    def _meaning(self, error: Exception) -> Exception:
        """Return what an error of the connection means."""
        lost = isinstance(error, ConnectionLost)
        problem = f"{self._address.place}: {error if lost else describe(error)}"
        if isinstance(error, ConnectionLost) and error.code in NEVER_ALLOWED:
            return BackendConfigurationError(
                f"OUTBOX_CONSUMERS[{self.alias!r}]['OPTIONS']: {problem}"
            )
        return unavailable(problem, error)
