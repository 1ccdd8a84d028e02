"""The backend: its options, and what each answer of the server means."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, inf
from secrets import token_hex
from ssl import SSLContext
from typing import Any, ClassVar, Final

from django_broadcaster.events import TRACEPARENT
from django_broadcaster.exceptions import (
    BackendUnavailable,
    DeliveryError,
    Rejected,
)

from ..base import Message
from ..bindings import MQTT, STRUCTURED_TYPE, Binding, BindingBackend
from ..connected import ConnectedBackend
from ..errors import describe, mapped, unavailable
from ..expiry import EXPIRYTIME, seconds_left
from ..names import escape_level
from ..outcomes import MessageBatch
from .address import read_address
from .connection import CLIENT, Connection, connect
from .errors import ERRORS, ConnectionLost
from .names import topic_problem
from .packets import LONGEST_EXPIRY, LONGEST_PACKET, Outgoing, properties
from .sender import Experience, Sender

SHOWN_CHARACTERS: Final = 200
"""How much of a topic an error shows."""

_SPECIAL: Final = frozenset({TRACEPARENT, EXPIRYTIME})
"""Extensions that are more than a part of the event: they become properties, too."""


class MQTTBackend(ConnectedBackend[Connection], BindingBackend):
    """Publishes events to topics of an MQTT 5 server, with QoS 1.

    Args:
        host, port: The server. The default port is 1883, or 8883 with TLS.
        username, password: The credentials.
        tls: True for an encrypted connection, a dictionary of `ca_file`, `cert_file`, `key_file`,
            `verify` and `check_hostname`, or an `ssl.SSLContext`. The dictionary may also have
            paho's `keyfile_password`, `ciphers` and `alpn_protocols`.
        topic: The topic, a template of `{type}`, `{source}`, `{subject}` and `{key}`.
        content_mode: "structured", or "binary" with the attributes as user properties.
        retain: Whether the server keeps the last message of each topic for later subscribers.
        client_id: The prefix of the client identifier. A random part follows, because a server
            disconnects a client when another one with its identifier connects. By default the
            server chooses.
        keepalive: Seconds after which the server ends a silent connection; 0 for never. The
            server's own value takes precedence.
        timeout: Seconds to wait for a connection, for its login, and for the next answer while a
            batch is in flight.

    The `publisher_config` of an event may have `topic`, as plain text, and `retain`.

    A batch takes about as many round trips as its busiest key has events (see `sender`). It takes
    at least its size divided by the server's Receive Maximum.
    """

    system: ClassVar[str] = "mqtt"
    runs_alone = True
    client_library = CLIENT
    binding: Binding = MQTT
    config_keys: ClassVar[frozenset[str]] = frozenset({"topic", "retain"})

    default_max_message_bytes: ClassVar[int | None] = LONGEST_PACKET - 2 * 2**16
    """The protocol's limit for one packet, less room for a topic and properties. A server's lower
    one (its Maximum Packet Size) is obeyed: such an event is rejected."""

    def __init__(
        self,
        *,
        host: str = "localhost",
        port: int | None = None,
        topic: str = "events/{type}",
        retain: bool = False,
        username: str | None = None,
        password: str | None = None,
        client_id: str = "",
        tls: bool | Mapping[str, Any] | SSLContext = False,
        keepalive: int = 60,
        timeout: float = 5.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._address = read_address(
            self.read, host=host, port=port, username=username, password=password, tls=tls
        )
        self.client_id = self.read.text("client_id", client_id, empty=True, plain=True)
        self._template = self.read.template("topic", topic, escape_level, topic_problem)
        self.retain = self.read.flag("retain", retain)
        self.keepalive = self.read.integer("keepalive", keepalive, 0, 2**16 - 1, unit="seconds")
        self.timeout = self.read.seconds("timeout", timeout)
        constant = self._template.constant
        self._own_topic = None if constant is None else constant.encode()
        self._structured = properties(STRUCTURED_TYPE, {})
        self._experience = Experience()

    # --- The contract ------------------------------------------------------------------------

    def connect(self, within: float = inf) -> Connection:
        """Return an open connection; raises BackendUnavailable or MissingClient."""
        with mapped(self.unavailable):
            connection = connect(
                Connection,
                self._address,
                client_id=f"{self.client_id}-{token_hex(8)}" if self.client_id else "",
                keepalive=self.keepalive,
                timeout=min(self.timeout, within),
            )
            problem = ""
            if not connection.takes_qos_1:
                problem = "the server takes no messages of QoS 1"
            elif self.retain and not connection.takes_retained:
                problem = "the server retains no messages"
            if problem:
                connection.close()
                raise ConnectionLost(problem)
            return connection

    def deliver(self, batch: MessageBatch, connection: Connection) -> None:
        """Publish the messages of a batch; the order of a key is kept: see `sender`."""
        Sender(batch, self, self._experience).run()

    def validate_config(self, config: Mapping[str, Any]) -> None:
        """Raise InvalidPublisherConfig for an unknown key or a wrong value."""
        super().validate_config(config)
        if "topic" in config:
            self.read_config.text("topic", config["topic"])
            self.read_config.check("topic", topic_problem(config["topic"]))
        self.read_config.flag("retain", config.get("retain", False))

    def destination_of(self, message: Message) -> Mapping[str, Any]:
        """Return where the message goes, for `show`."""
        retain = message.config.get("retain", self.retain)
        shown = {"topic": self._topic(message).decode(), "retain": retain}
        expiry = _expiry_interval(message)
        return shown if expiry is None else {**shown, "expiry_seconds": expiry}

    # --- What the sender asks for --------------------------------------------------------------

    def outgoing(self, message: Message, connection: Connection) -> Outgoing:
        """Return the message as a packet; raises Rejected for one that can't be sent."""
        packed, payload = self._content(message)
        if self.max_message_bytes is not None and len(payload) > self.max_message_bytes:
            raise Rejected(
                f"the message takes {len(payload)} bytes, over the limit of "
                f"{self.max_message_bytes} of the backend's max_message_bytes"
            )
        topic, is_own, retain = self._own_topic, True, self.retain
        if topic is None or "topic" in message.config:
            topic, is_own = self._topic(message), False
        if message.config:
            retain = message.config.get("retain", retain)
        outgoing = Outgoing(topic, packed, payload, retain=retain, is_own=is_own)
        if outgoing.size > connection.longest:
            raise Rejected(
                f"the message takes {outgoing.size} bytes with its properties, over the server's "
                f"limit of {connection.longest} for one packet"
            )
        if retain and not connection.takes_retained:
            raise Rejected("the server retains no messages")
        return outgoing

    def _content(self, message: Message) -> tuple[bytes, bytes]:
        """Return the properties and the payload."""
        if self.content_mode == "structured" and not message.extensions.keys() & _SPECIAL:
            return self._structured, message.to_json()  # as `encode` says, in less time
        wire = self.encode(message)
        try:
            packed = properties(wire.content_type, wire.headers, _expiry_interval(message))
            return packed, wire.body or b""
        except ValueError as error:
            raise Rejected(f"an attribute {error}") from None

    def _topic(self, message: Message) -> bytes:
        topic = message.config.get("topic") or self._template.render(message)
        if problem := topic_problem(topic):
            raise Rejected(f"the topic {problem}")
        return topic.encode()

    def refusal(self, outgoing: Outgoing, code: int, text: str) -> DeliveryError:
        """Return what a reason code of MQTT 5 means for a message."""
        topic = outgoing.topic.decode()[:SHOWN_CHARACTERS]
        problem = f"{self._address.place}: topic {topic!r}: {text}"
        reason = f"the MQTT server answered reason code 0x{code:02x}"
        return ERRORS.scope(code).error(problem, shared=outgoing.is_own, reason=reason)

    def unavailable(self, error: Exception) -> BackendUnavailable:
        """Return the error for a server that is away, or refuses everyone."""
        problem = str(error) if isinstance(error, ConnectionLost) else describe(error)
        return unavailable(f"{self._address.place}: {problem}", error)


def _expiry_interval(message: Message) -> int | None:
    """Return the Message Expiry Interval in seconds, None for none."""
    left = seconds_left(message, LONGEST_EXPIRY)
    return None if left is None else max(1, ceil(left))
