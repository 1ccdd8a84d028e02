"""The backend: its options, and what each answer of the server means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import ceil
from secrets import token_hex
from ssl import SSLContext
from typing import Any, ClassVar, Final

from django_broadcaster.events import TRACEPARENT
from django_broadcaster.exceptions import (
    BackendUnavailable,
    DeliveryError,
    InvalidPublisherConfig,
    Rejected,
    TransientError,
)

from ..base import Message, Outcome
from ..bindings import MQTT, STRUCTURED_TYPE, Binding, BindingBackend
from ..expiry import EXPIRYTIME, seconds_left
from ..outcomes import Batch
from ..templates import Template
from .connection import CLIENT, Link, LinkLost, connect, library, tls_context
from .names import escape, template_problem, topic_problem
from .packets import LONGEST_EXPIRY, LONGEST_PACKET, LONGEST_TEXT, Letter, is_text, properties
from .sender import Experience, Flight

HEALTH_SECONDS = 1.0
"""The longest that a health check waits for a connection, and again for the answer."""

FRESH_SECONDS: Final = 1.0
"""How long a connection may have been silent and is trusted without being asked."""

SHOWN_CHARACTERS: Final = 200
"""How much of a topic an error shows."""

TLS_OPTIONS: Final = frozenset({
    "alpn_protocols", "ca_certs", "cert_reqs", "certfile", "ciphers", "insecure", "keyfile",
    "keyfile_password",
})  # fmt: skip

_SPECIAL: Final = frozenset({TRACEPARENT, EXPIRYTIME})
"""Extensions that are more than a part of the event: they become properties, too."""

_MISPLACED = frozenset({0x87, 0x90})  # not authorized, topic name invalid
_REJECTED = frozenset({0x81, 0x82, 0x90, 0x95, 0x99})  # malformed, too large, ...: see BLAMING
_QUOTA_EXCEEDED = 0x97


class MQTTBackend(BindingBackend):
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
        self._link: Link | None = None
        self._experience = Experience()

    # --- The contract ------------------------------------------------------------------------

    def open(self) -> None:
        """Connect; raises BackendUnavailable or MissingClient."""
        self.close()
        self.link()

    def close(self) -> None:
        """Disconnect; the next publish connects again."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    drop = close

    def send(self, message: Message) -> None:
        """Publish one event; raises its DeliveryError."""
        (outcome,) = self.send_batch([message])
        if outcome is not None:
            raise outcome

    def send_batch(self, messages: Sequence[Message]) -> list[Outcome]:
        """Publish events; one outcome for each, None once the server has acknowledged it.

        The order of a key is kept: see `sender`. What was on its way as the connection broke
        may have arrived: it is unavailable, and sent again it makes duplicates.
        """
        batch = Batch(messages)
        try:
            self._look_after_link()
            Flight(batch, self, self._experience).run()
        except BaseException:
            self.close()
            raise
        return batch.outcomes

    def health_check(self) -> bool:
        """Log in over a connection of its own, within about `HEALTH_SECONDS`."""
        try:
            self._connect(min(self.timeout, HEALTH_SECONDS)).close()
        except Exception:
            return False
        return True

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

    # --- What a flight asks for --------------------------------------------------------------

    def letter(self, message: Message, link: Link) -> Letter:
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
        letter = Letter(topic, packed, payload, retain=retain, is_own=is_own)
        if letter.size > link.longest:
            raise Rejected(
                f"the message takes {letter.size} bytes with its properties, over the server's "
                f"limit of {link.longest} for one packet"
            )
        if retain and not link.takes_retained:
            raise Rejected("the server retains no messages")
        return letter

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

    def link(self) -> Link:
        """Return the connection, a new one if there is none; raises BackendUnavailable."""
        if self._link is None:
            try:
                self._link = self._connect(self.timeout)
            except LinkLost as error:
                raise self.unavailable(error) from error
        return self._link

    def refusal(self, letter: Letter, code: int, text: str) -> DeliveryError:
        """Return what a reason code of MQTT 5 means for a message.

        Where its topic is the only one that the backend has, every event would be refused for it,
        and none is to blame: they wait until it is put right. One that is made from an event, or
        that the event asked for, must not stop the others.
        """
        topic = letter.topic.decode()[:SHOWN_CHARACTERS]
        problem = f"{self._place}: topic {topic!r}: {text}"
        if code == _QUOTA_EXCEEDED or (code in _MISPLACED and letter.is_own):
            return BackendUnavailable(problem)
        return Rejected(problem) if code in _REJECTED else TransientError(problem)

    def unavailable(self, error: LinkLost) -> BackendUnavailable:
        """Return the error for a server that is away, or refuses everyone."""
        failure = BackendUnavailable(f"{self._place}: {error}")
        failure.__cause__ = error
        return failure

    # --- The connection ----------------------------------------------------------------------

    def _look_after_link(self) -> None:
        """Leave a connection that the server closed meanwhile, or that is the parent process's.

        Nothing is on its way now, so nothing is lost with it. Nobody pings while there is nothing
        to send, so a silent one may be gone without a word.
        """
        link = self._link
        if link is None:
            return
        if link.is_inherited or 0 < link.keepalive <= link.idle:
            self.close()
            return
        try:
            link.freshen(FRESH_SECONDS)
        except LinkLost:
            self.close()

    def _connect(self, timeout: float) -> Link:
        """Return an open connection; raises LinkLost or MissingClient."""
        library()
        tls = self._tls
        context = None
        if isinstance(tls, SSLContext):
            context = partial(_same, tls)
        elif tls is not False:
            context = partial(tls_context, **(tls if isinstance(tls, Mapping) else {}))
        link = connect(
            host=self.host,
            port=self.port,
            client_id=f"{self.client_id}-{token_hex(8)}" if self.client_id else "",
            tls=context,
            keepalive=self.keepalive,
            timeout=timeout,
            **self._login,
        )
        problem = ""
        if not link.takes_qos_1:
            problem = "the server takes no messages of QoS 1"
        elif self.retain and not link.takes_retained:
            problem = "the server retains no messages"
        if problem:
            link.close()
            raise LinkLost(problem)
        return link

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
