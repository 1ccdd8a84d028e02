"""The backend: its options, and what each answer of the server means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from math import ceil, inf
from secrets import token_hex
from ssl import SSLContext
from typing import Any, ClassVar, Final

from django_broadcaster.events import TRACEPARENT
from django_broadcaster.exceptions import (
    BackendUnavailable,
    DeliveryError,
    InvalidPublisherConfig,
    Rejected,
)

from ..base import Message
from ..bindings import MQTT, STRUCTURED_TYPE, Binding, BindingBackend
from ..connected import ConnectedBackend
from ..errors import describe, mapped, unavailable
from ..expiry import EXPIRYTIME, seconds_left
from ..outcomes import Batch
from ..templates import Template
from .connection import CLIENT, Connection, connect, tls_context
from .errors import ERRORS, ConnectionLost
from .names import escape, template_problem, topic_problem
from .packets import LONGEST_EXPIRY, LONGEST_PACKET, LONGEST_TEXT, Outgoing, is_text, properties
from .sender import Experience, Sender

SHOWN_CHARACTERS: Final = 200
"""How much of a topic an error shows."""

TLS_OPTIONS: Final = frozenset({
    "alpn_protocols", "ca_certs", "cert_reqs", "certfile", "ciphers", "insecure", "keyfile",
    "keyfile_password",
})  # fmt: skip

_SPECIAL: Final = frozenset({TRACEPARENT, EXPIRYTIME})
"""Extensions that are more than a part of the event: they become properties, too."""


class MQTTBackend(ConnectedBackend[Connection], BindingBackend):
    """Publishes events to topics of an MQTT 5 server, with QoS 1.

    host, port: the server; the port is 1883, or 8883 with TLS, if none is given.
    topic: where events go, with `{type}`, `{source}`, `{subject}` and `{key}` filled in.
    content_mode: "structured", the whole event in the payload, or "binary", its attributes as user
        properties.
    retain: whether the server keeps the last message of each topic for those who subscribe later.
    username, password: where the server wants them.
    client_id: what the client identifier of each connection begins with; a random part follows,
        because a server cuts off a client when another one comes with the same identifier. Without
        it the server chooses one.
    tls: True for an encrypted connection, a dictionary of what paho's `tls_set` takes (`ca_certs`,
        `certfile`, `keyfile`, `keyfile_password`, `cert_reqs`, `ciphers`, `alpn_protocols`, and
        `insecure` for its `tls_insecure_set`), or an `ssl.SSLContext` of your own.
    keepalive: seconds after which the server gives up a silent connection; 0 for never. A server's
        own value goes first.
    timeout: seconds to wait for a connection, again for its login, and then whenever nothing is
        written and nothing heard while a batch is on its way.

    `publisher_config` of an event may have `topic`, as plain text, and `retain`.

    A batch takes about as many round trips as its busiest key has events, and no fewer than its
    size divided by the server's Receive Maximum: see `sender`.
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
        self.host, self.topic, self.retain = host, topic, retain
        self.port = (8883 if tls is not False else 1883) if port is None else port
        self.client_id, self.keepalive, self.timeout = client_id, keepalive, timeout
        self._login = {"username": username, "password": password}
        self._tls = tls
        for option, problem in self._problems():
            raise self.option_error(option, problem)
        self._template = Template(topic, escape)
        self._own_topic = topic.format().encode() if self._template.is_constant else None
        self._structured = properties(STRUCTURED_TYPE, {})
        self._experience = Experience()

    # --- The contract ------------------------------------------------------------------------

    def connect(self, within: float = inf) -> Connection:
        """Return an open connection; raises BackendUnavailable or MissingClient."""
        tls = self._tls
        context = None
        if isinstance(tls, SSLContext):
            context = partial(_same, tls)
        elif tls is not False:
            context = partial(tls_context, **(tls if isinstance(tls, Mapping) else {}))
        with mapped(self.unavailable):
            connection = connect(
                host=self.host,
                port=self.port,
                client_id=f"{self.client_id}-{token_hex(8)}" if self.client_id else "",
                tls=context,
                keepalive=self.keepalive,
                timeout=min(self.timeout, within),
                **self._login,
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

    def deliver(self, batch: Batch, connection: Connection) -> None:
        """Publish the messages of a batch; the order of a key is kept: see `sender`."""
        Sender(batch, self, self._experience).run()

    def validate_config(self, config: Mapping[str, Any]) -> None:
        """Judge `topic` and `retain`, too; raises InvalidPublisherConfig."""
        super().validate_config(config)
        if "topic" in config and (problem := topic_problem(config["topic"])):
            raise InvalidPublisherConfig(f"'topic' {problem}", self.alias)
        if not isinstance(config.get("retain", False), bool):
            raise InvalidPublisherConfig("'retain' must be True or False", self.alias)

    def destination_of(self, message: Message) -> Mapping[str, Any]:
        """Return where the message goes, for `show`."""
        retain = message.config.get("retain", self.retain)
        shown = {"topic": self._topic(message).decode(), "retain": retain}
        expiry = _expiry_interval(message)
        return shown if expiry is None else {**shown, "expiry_seconds": expiry}

    # --- What the sender asks for --------------------------------------------------------------

    def outgoing(self, message: Message, connection: Connection) -> Outgoing:
        """Return the message for the wire; raises Rejected for one that can't be sent."""
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
            raise Rejected(f"its topic {problem}")
        return topic.encode()

    def refusal(self, outgoing: Outgoing, code: int, text: str) -> DeliveryError:
        """Return what a reason code of MQTT 5 means for a message."""
        topic = outgoing.topic.decode()[:SHOWN_CHARACTERS]
        problem = f"{self._place}: topic {topic!r}: {text}"
        return ERRORS.blame(code).error(problem, shared=outgoing.is_own)

    def unavailable(self, error: Exception) -> BackendUnavailable:
        """Return the error for a server that is away, or refuses everyone."""
        problem = str(error) if isinstance(error, ConnectionLost) else describe(error)
        return unavailable(f"{self._place}: {problem}", error)

    @property
    def _place(self) -> str:
        return f"MQTT server at {self.host}:{self.port}"

    # --- Options -----------------------------------------------------------------------------

    def _problems(self) -> Iterator[tuple[str, str]]:
        """Yield the option and what is wrong with it."""
        for option in ("host", "client_id"):
            value: object = getattr(self, option)
            if not isinstance(value, str) or not is_text(value) or (option == "host" and not value):
                yield option, f"must be text, not {value!r}"
        if type(self.port) is not int or not 0 < self.port < 2**16:
            yield "port", f"must be a number from 1 to 65535, not {self.port!r}"
        try:
            Template(self.topic, escape)
        except ValueError as error:
            yield "topic", str(error)
        else:
            if problem := template_problem(self.topic):
                yield "topic", problem
        retain: object = self.retain
        if not isinstance(retain, bool):
            yield "retain", "must be True or False"
        yield from self._login_problems()
        yield from _tls_problems(self._tls)
        if type(self.keepalive) is not int or not 0 <= self.keepalive < 2**16:
            yield "keepalive", f"must be whole seconds from 0 to 65535, not {self.keepalive!r}"
        timeout: object = self.timeout
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0:
            yield "timeout", f"must be seconds above 0, not {timeout!r}"

    def _login_problems(self) -> Iterator[tuple[str, str]]:
        for option, value in self._login.items():  # the problem must not show a password
            given: object = value
            if given is None:
                continue
            if not isinstance(given, str) or len(given.encode(errors="replace")) > LONGEST_TEXT:
                yield option, f"must be text of at most {LONGEST_TEXT} bytes"
        if self._login["password"] is not None and self._login["username"] is None:
            yield "username", "must be given where 'password' is"


def _tls_problems(tls: object) -> Iterator[tuple[str, str]]:
    if isinstance(tls, bool | SSLContext):
        return
    if not isinstance(tls, Mapping) or not tls.keys() <= TLS_OPTIONS:
        known = ", ".join(sorted(TLS_OPTIONS))
        yield "tls", f"must be True, False, an ssl.SSLContext, or a dictionary of {known}"
    elif "keyfile" in tls and "certfile" not in tls:
        yield "tls", "has a 'keyfile' and no 'certfile'"


def _expiry_interval(message: Message) -> int | None:
    """Return the Message Expiry Interval in seconds, None for none."""
    left = seconds_left(message, LONGEST_EXPIRY)
    return None if left is None else max(1, ceil(left))


def _same(context: SSLContext) -> SSLContext:
    return context
