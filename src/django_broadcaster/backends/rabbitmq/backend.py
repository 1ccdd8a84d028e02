"""The backend: its options, what becomes of each answer of the server, and the topology."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import inf
from typing import Any, ClassVar, Final

from django_broadcaster.exceptions import (
    BackendUnavailable,
    DeliveryError,
    Rejected,
)

from ..base import Message
from ..bindings import AMQP, RABBITMQ, Binding, BindingBackend
from ..connected import ConnectedBackend
from ..errors import Scope, mapped, unavailable
from ..expiry import EXPIRYTIME
from ..names import Template
from ..outcomes import MessageBatch
from .address import read_address
from .connection import CLIENT, Connection
from .errors import ERRORS, ChannelRefused
from .frames import SHORT_BYTES, Outgoing
from .names import ESCAPES, is_fixed, is_short, name_of
from .properties import PROPERTIES, expiration_of, read_properties
from .sender import Experience, Sender

EXCHANGE_TYPES: Final = frozenset({"direct", "fanout", "headers", "topic"})

BINDINGS: Final = {binding.prefix: binding for binding in (RABBITMQ, AMQP)}

_PLACES: Final = frozenset({"exchange", "routing_key"})


class RabbitMQBackend(ConnectedBackend[Connection], BindingBackend):
    """Publishes events to an exchange.

    Args:
        url: The address of the server: `amqp://host:port/vhost`, or `amqps://` for TLS. By default
            it is the server on this machine.
        username, password: The credentials, unless the URL has them. The default of both is
            "guest".
        tls: True for an encrypted connection, or a dictionary of `ca_file`, `cert_file`,
            `key_file`, `verify` and `check_hostname`. It may also have py-amqp's `ciphers`,
            `server_hostname`, `ssl_version`, `tls_minimum_version` and `tls_maximum_version`.
        login_method: "PLAIN", "AMQPLAIN", or "EXTERNAL" for a login by the client's certificate.
        exchange: The exchange, a template of `{type}`, `{source}`, `{subject}` and `{key}`. The
            exchange "" is the server's default exchange.
        routing_key: The routing key, a template. By default it is the type, or for the exchange ""
            the queue.
        exchange_type: "topic", "direct", "fanout", "headers", or a type of a plugin ("x-...").
        exchange_arguments: The `x-arguments` of the exchange, such as an `alternate-exchange`.
        queue: A queue that is declared and bound to the exchange.
        queue_arguments: The `x-arguments` of the queue.
        binding_key: The key of that binding. By default it is the routing key if that is the same
            for all events, else "#" for a topic exchange.
        durable: Whether exchange and queue survive a restart of the server.
        declare: True declares exchange, queue and binding. False only checks that exchange and
            queue exist. An exchange whose name depends on the event must exist.
        mandatory: Whether an event that no queue takes is rejected. Otherwise the server drops it.
        content_mode: "structured" or "binary".
        header_prefix: The prefix of the headers in binary mode: "ce-", which readers made for
            RabbitMQ expect, or `cloudEvents_`, as in the binding for AMQP 1.0.
        timeout: Seconds without an answer after which the server counts as unavailable.
        connect_timeout: Seconds to wait for a connection.
        heartbeat: Seconds between heartbeats. With 0 there are none, because an idle relay can't
            send any. TCP's keepalive finds a peer that is gone.

    The `publisher_config` of an event may have `exchange` and `routing_key`, as plain text. It may
    also have properties of the message: `priority` (0 to 255), `expiration` (seconds),
    `correlation_id` (text) and `headers` (a dictionary of text, whole numbers and booleans), such
    as `x-delay`. An event with an `expirytime` also expires in the queue.

    A batch takes about as many round trips as its busiest key has events: see `sender`.
    """

    system: ClassVar[str] = "rabbitmq"
    runs_alone = True
    client_library = CLIENT
    binding: Binding = RABBITMQ
    config_keys: ClassVar[frozenset[str]] = _PLACES | PROPERTIES

    default_max_message_bytes: ClassVar[int | None] = 16 * 2**20
    """RabbitMQ's default for `max_message_size` from version 4.0 on; before, it was 128 MiB."""

    def __init__(
        self,
        *,
        url: str | None = None,
        username: str | None = None,
        password: str | None = None,
        login_method: str = "PLAIN",
        tls: bool | Mapping[str, Any] = False,
        exchange: str = "events",
        exchange_type: str = "topic",
        exchange_arguments: Mapping[str, Any] | None = None,
        routing_key: str | None = None,
        queue: str | None = None,
        queue_arguments: Mapping[str, Any] | None = None,
        binding_key: str | None = None,
        durable: bool = True,
        declare: bool = True,
        mandatory: bool = True,
        header_prefix: str = RABBITMQ.prefix,
        timeout: float = 10.0,
        connect_timeout: float = 5.0,
        heartbeat: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        read = self.read
        self._address = read_address(
            read,
            url=url,
            username=username,
            password=password,
            login_method=login_method,
            tls=tls,
        )
        if routing_key is None:
            routing_key = queue or "" if exchange == "" else "{type}"
        self.queue = read.text("queue", queue, SHORT_BYTES, plain=True, optional=True)
        self.exchange, self._exchange = exchange, self._template("exchange", exchange)
        self.routing_key = routing_key
        self._routing_key = self._template("routing_key", routing_key)
        self.exchange_type = read.require(
            "exchange_type",
            exchange_type,
            str(exchange_type) in EXCHANGE_TYPES or str(exchange_type).startswith("x-"),
            "'direct', 'fanout', 'headers', 'topic' or a name that begins with 'x-'",
        )
        self.exchange_arguments = read.mapping(
            "exchange_arguments", exchange_arguments, optional=True
        )
        self.queue_arguments = read.mapping("queue_arguments", queue_arguments, optional=True)
        self.durable = read.flag("durable", durable)
        self.declare = read.flag("declare", declare)
        self.mandatory = read.flag("mandatory", mandatory)
        self.binding_key = self._binding_key(binding_key)
        self.binding = BINDINGS[read.choice("header_prefix", header_prefix, BINDINGS)]
        self.timeout = read.seconds("timeout", timeout)
        self.connect_timeout = read.seconds("connect_timeout", connect_timeout)
        self.heartbeat = read.integer("heartbeat", heartbeat, 0, 2**16 - 1, unit="seconds")
        self._sender: Sender | None = None
        self._experience = Experience()

    # --- The contract ------------------------------------------------------------------------

    def connect(self, within: float = inf) -> Connection:
        """Return an open connection; raises BackendUnavailable or MissingClient."""
        options = {
            **self._address.options,
            "connect_timeout": min(self.connect_timeout, within),
            "heartbeat": self.heartbeat,
            "client_properties": {"connection_name": f"django-broadcaster {self.alias}"},
        }
        return Connection(
            options,
            place=self._place,
            timeout=min(self.timeout, within),
            on_confirm=self._confirmed,
            on_return=self._came_back,
        )

    def prepare(self, connection: Connection) -> None:
        """Declare or check exchange and queue; raises BackendUnavailable."""
        self._experience.exchanges.clear()  # a new connection begins with a single message
        with mapped(lambda error: self.unavailable(str(error))):  # a ChannelRefused
            self._declare(connection)

    def deliver(self, batch: MessageBatch, connection: Connection) -> None:
        """Publish the messages of a batch; the order of a key is kept: see `sender`."""
        self._sender = Sender(batch, self, self._experience)
        try:
            self._sender.run()
        finally:
            self._sender = None

    def health_check(self) -> bool:
        """Log in over a connection of its own; each answer may take `HEALTH_SECONDS`.

        False, too, while the server takes no messages from the connection that publishes.
        """
        blocked = self._connection is not None and self._connection.blocked
        return not blocked and super().health_check()

    def validate_config(self, config: Mapping[str, Any]) -> None:
        """Judge the values, too; raises InvalidPublisherConfig."""
        super().validate_config(config)
        for key in config.keys() & _PLACES:
            self.read_config.text(key, config[key], SHORT_BYTES, empty=True, plain=True)
        read_properties(self.read_config, config)

    def destination_of(self, message: Message) -> Mapping[str, Any]:
        """Return where the message goes, for `show`."""
        outgoing = self.outgoing(message)
        names = ("exchange", "routing_key", "message_id")
        asked = {
            "priority": outgoing.priority,
            "correlation_id": outgoing.correlation_id,
            "expiration": outgoing.expiration,
            "headers": message.config.get("headers"),
        }
        return {
            **{name: getattr(outgoing, name) for name in names},
            **{name: value for name, value in asked.items() if value not in (None, "")},
        }

    # --- What the sender asks for --------------------------------------------------------------

    def outgoing(self, message: Message) -> Outgoing:
        """Return the message in AMQP's terms; raises Rejected for one that cannot be sent."""
        wire = self.encode(message)
        body = wire.body or b""
        if self.max_message_bytes is not None and len(body) > self.max_message_bytes:
            raise Rejected(
                f"the message takes {len(body)} bytes, over the limit of {self.max_message_bytes} "
                "of the backend's max_message_bytes"
            )
        outgoing = Outgoing(
            exchange=name_of(self._exchange, message.config.get("exchange"), message),
            routing_key=name_of(self._routing_key, message.config.get("routing_key"), message),
            message_id=message.event_id if is_short(message.event_id) else "",
            content_type=wire.content_type,
            headers=wire.headers,
            body=body,
        )
        if message.config.keys() & PROPERTIES or EXPIRYTIME in message.extensions:
            self._give_properties(outgoing, message)
        for text in (outgoing.exchange, outgoing.routing_key, outgoing.content_type):
            if not is_short(text):
                raise Rejected(f"a name of the event is over AMQP's {SHORT_BYTES} bytes: {text!r}")
        return outgoing

    def _give_properties(self, outgoing: Outgoing, message: Message) -> None:
        """Set the properties that an event asks for; raises Rejected for invalid ones.

        A publish call refuses those; a row that was changed afterwards may have them.
        """
        config = message.config
        read_properties(self.read_message_config, config)
        outgoing.priority = config.get("priority")
        outgoing.correlation_id = config.get("correlation_id", "")
        outgoing.headers = {**config.get("headers", {}), **outgoing.headers}
        outgoing.expiration = expiration_of(message)

    def refused(self, message: Message, error: ChannelRefused) -> DeliveryError:
        """Return what it means that the server closed the channel over this one message."""
        scope = ERRORS.scope(error.code)
        if scope is Scope.EVENT and not (
            "size" in str(error) or message.config.keys() & PROPERTIES
        ):
            scope = Scope.DESTINATION
        is_own = is_fixed(self._exchange) and "exchange" not in message.config
        shared = is_own and not error.is_about_topic
        reason = f"RabbitMQ closed the channel with {error.code}"
        return scope.error(f"{self._place}: {error}", shared=shared, cause=error, reason=reason)

    def nacked(self, message: Message, outgoing: Outgoing) -> DeliveryError:
        """Return what a nack means: a queue is full (`reject-publish`), or has failed.

        If all events go to one place, it is the server that is full. Else others have room.
        """
        place = f"routing key {outgoing.routing_key!r} of exchange {outgoing.exchange!r}"
        problem = f"a queue for {place} is full, or failed, and did not take it"
        is_own = is_fixed(self._exchange) and is_fixed(self._routing_key)
        shared = is_own and not message.config.keys() & _PLACES
        text = f"{self._place}: {problem}"
        return Scope.DESTINATION.error(text, shared=shared, reason="RabbitMQ sent a nack")

    def unavailable(self, problem: str, cause: Exception | None = None) -> BackendUnavailable:
        """Return the error for a server that is away, or refuses everyone."""
        return unavailable(f"{self._place}: {problem}", cause)

    @property
    def _place(self) -> str:
        return f"RabbitMQ at {self._address.place}"

    # --- The connection ----------------------------------------------------------------------

    def _declare(self, connection: Connection) -> None:
        """Declare exchange, queue and binding, or see that they are there."""
        kept = {"durable": self.durable, "auto_delete": False}
        checked = {"passive": not self.declare}
        named = is_fixed(self._exchange) and self.exchange != ""
        if named:
            connection.call(
                lambda channel: channel.exchange_declare(
                    self.exchange,
                    self.exchange_type,
                    arguments=dict(self.exchange_arguments or {}),
                    **kept,
                    **checked,
                )
            )
        if self.queue is None:
            return
        arguments = dict(self.queue_arguments or {})
        connection.call(
            lambda channel: channel.queue_declare(
                self.queue, arguments=arguments, **kept, **checked
            )
        )
        if named and self.declare:
            connection.call(partial(_bind, self.queue, self.exchange, self.binding_key))

    def _confirmed(self, tag: int, many: bool, stored: bool) -> None:
        if self._sender is not None:
            self._sender.confirmed(tag, many, stored)

    def _came_back(self, message_id: str, reason: str) -> None:
        if self._sender is not None:
            self._sender.came_back(message_id, reason)

    # --- Options -----------------------------------------------------------------------------

    def _template(self, option: str, text: str) -> Template | None:
        """Return the template of a name, or None for the empty name; both may be empty."""
        self.read.text(option, text, SHORT_BYTES, empty=True, plain=True)
        return None if text == "" else self.read.template(option, text, ESCAPES[option])

    def _binding_key(self, given: str | None) -> str:
        self.read.text("binding_key", given, SHORT_BYTES, empty=True, plain=True, optional=True)
        if given is not None:
            return given
        if is_fixed(self._routing_key):
            return self.routing_key
        if self.exchange_type == "topic":
            return "#"
        if self.exchange_type == "direct" and self.queue is not None and self.declare:
            problem = "must be given for a direct exchange and a routing key with fields"
            self.read.refuse("binding_key", problem)
        return ""


def _bind(queue: str, exchange: str, binding_key: str, channel: Any) -> None:
    channel.queue_bind(queue, exchange, binding_key)
