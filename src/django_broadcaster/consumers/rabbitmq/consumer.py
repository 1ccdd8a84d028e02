"""The consumer of RabbitMQ: its options, the queue, and what becomes of each message."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from math import inf
from typing import Any, ClassVar, Final, NamedTuple, NoReturn

from django_broadcaster.backends.connected import HEALTH_SECONDS
from django_broadcaster.backends.errors import unavailable
from django_broadcaster.backends.rabbitmq.address import read_address
from django_broadcaster.backends.rabbitmq.connection import CLIENT
from django_broadcaster.backends.rabbitmq.errors import ChannelRefused
from django_broadcaster.backends.rabbitmq.frames import SHORT_BYTES
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import BackendConfigurationError, BackendUnavailable

from ..base import Consumer, Delivery, ReceivedMessage
from .connection import ReceivingConnection
from .incoming import Incoming

logger = logging.getLogger("django_broadcaster.consumers")

SINGLE_ACTIVE: Final = "x-single-active-consumer"
"""The argument of a queue that gives its messages to one of its consumers at a time."""

MOST_PREFETCHED: Final = 2**16 - 1
"""The largest prefetch count of the protocol."""

WARN_DELIVERIES: Final = 10
"""Deliveries of one message before a warning: half of the limit of RabbitMQ 4."""

NEVER_ALLOWED: Final = frozenset({403, 530})
"""Reply codes of a login that is wrong, or for a virtual host that is not there."""

_NO_STREAMS: Final = (
    "is a stream; RabbitMQConsumer reads classic and quorum queues only, because a server does not "
    "record how far an AMQP consumer has read a stream. Bind a quorum queue to the same exchange"
)


class Receipt(NamedTuple):
    """The connection over which a message was delivered, and its tag there."""

    connection: ReceivingConnection
    tag: int


class RabbitMQConsumer(Consumer):
    """Receives the messages of a queue.

    Args:
        queue: The name of the queue.
        queue_arguments: Its `x-arguments`, such as `{"x-queue-type": "quorum"}`. An ordered
            consumer adds `x-single-active-consumer`, unless it is `exclusive`.
        durable: Whether the queue survives a restart of the server.
        declare: True declares the queue, and its binding if there is an `exchange`. False only
            checks that the queue exists.
        exchange: An existing exchange that the queue is bound to.
        binding_key: The key of that binding, or a list of keys. By default it is "#", which is for
            all messages of a topic exchange.
        prefetch: The most messages that the server delivers before they are acknowledged; the
            receiver holds them in memory. All receivers of a queue need the same value: a quorum
            queue breaks the order if receivers are lost one after the other, and a later one takes
            fewer messages.
        exclusive: Whether the server refuses all other readers of the queue meanwhile. An ordered
            consumer needs it for a classic queue without `x-single-active-consumer`.
        url: The address of the server: `amqp://host:port/vhost`, or `amqps://` for TLS. By default
            it is the server on this machine.
        username, password: The credentials, unless the URL has them. The default of both is
            "guest".
        tls: True for an encrypted connection, or a dictionary of `ca_file`, `cert_file`,
            `key_file`, `verify` and `check_hostname`. It may also have py-amqp's `ciphers`,
            `server_hostname`, `ssl_version`, `tls_minimum_version` and `tls_maximum_version`.
        login_method: "PLAIN", "AMQPLAIN", or "EXTERNAL" for a login by the client's certificate.
        timeout: Seconds without an answer after which the server counts as unavailable.
        connect_timeout: Seconds to wait for a connection.
        heartbeat: Seconds between heartbeats. The server gives the messages of a receiver that
            hangs to another one after about twice that time.
    """

    system: ClassVar[str] = "rabbitmq"
    client_library = CLIENT

    def __init__(
        self,
        *,
        queue: str,
        queue_arguments: Mapping[str, Any] | None = None,
        durable: bool = True,
        declare: bool = True,
        exchange: str | None = None,
        binding_key: str | Sequence[str] | None = None,
        prefetch: int = 2000,
        exclusive: bool = False,
        url: str | None = None,
        username: str | None = None,
        password: str | None = None,
        login_method: str = "PLAIN",
        tls: bool | Mapping[str, Any] = False,
        timeout: float = 10.0,
        connect_timeout: float = 5.0,
        heartbeat: int = 30,
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
        self.queue = read.text("queue", queue, SHORT_BYTES, plain=True)
        self.prefetch = read.integer("prefetch", prefetch, 1, MOST_PREFETCHED)
        self.exclusive = read.flag("exclusive", exclusive)
        self.durable = read.flag("durable", durable)
        self.declare = read.flag("declare", declare)
        self.queue_arguments = self._arguments(queue_arguments)
        self.exchange = read.text("exchange", exchange, SHORT_BYTES, plain=True, optional=True)
        if exchange is not None and not declare:
            read.refuse("exchange", "has no effect with 'declare': False")
        self.binding_keys = self._keys(binding_key)
        self.timeout = read.seconds("timeout", timeout)
        self.connect_timeout = read.seconds("connect_timeout", connect_timeout)
        self.heartbeat = read.integer("heartbeat", heartbeat, 1, 2**16 - 1, unit="seconds")
        self._connection: ReceivingConnection | None = None
        self._outstanding: dict[int, None] = {}  # tags that `receive` has returned, in order
        self._is_consuming = False
        self._has_warned = False

    # --- The contract ------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, and declare or check the queue."""
        self.close()
        connection = self._connect()
        try:
            try:
                self._prepare(connection)
            except ChannelRefused as error:
                self._refuse(error)
        except BaseException:
            connection.drop()
            raise
        self._connection = connection

    def close(self) -> None:
        """Disconnect: the server delivers again what is unacknowledged, in the same order."""
        connection, self._connection = self._connection, None
        self._outstanding.clear()
        self._is_consuming = False
        if connection is not None:
            connection.close()

    def receive(self, limit: int, seconds: float) -> list[Delivery]:
        """Return the messages that have arrived, at least one if any arrives within the time."""
        connection = self._opened()
        deadline = time.monotonic() + seconds
        try:
            if not self._is_consuming:
                self._consume(connection)
            connection.wait(deadline)
            connection.keep_alive()
        except ChannelRefused as error:
            self._refuse(error)
        if connection.cancelled:
            raise connection.unavailable(
                f"the server ended the consumer of queue {self.queue!r}: the queue was deleted, or "
                "its node is down"
            )
        arrived = connection.arrived
        taken = [arrived.popleft() for _ in range(min(limit, len(arrived)))]
        if any(each.is_of_stream for each in taken):
            raise self.option_error("queue", _NO_STREAMS)
        return [self._delivery(connection, each) for each in taken]

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge messages: in one frame if they are the first unacknowledged ones."""
        connection = self._opened()
        tags = self._taken(connection, deliveries)
        up_to = 0
        for tag in self._outstanding:  # in the order of delivery
            if tag not in tags:
                break
            up_to = tag
        self._forget(tags)
        try:
            connection.acknowledge([tag for tag in tags if tag > up_to], up_to=up_to)
        except ChannelRefused as error:
            self._refuse(error)

    def reject(self, delivery: Delivery) -> None:
        """Reject a message: the server moves it to the queue's dead-letter exchange, if any."""
        connection = self._opened()
        tags = self._taken(connection, [delivery])
        self._forget(tags)
        try:
            for tag in tags:
                connection.call(partial(_reject, tag))
        except ChannelRefused as error:
            self._refuse(error)

    def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Keep the connection alive; the server waits for its `consumer_timeout`, 30 minutes."""
        try:
            self._opened().keep_alive()
        except ChannelRefused as error:
            self._refuse(error)

    def origins(self) -> Sequence[Mapping[str, str]]:
        """Return the queue."""
        return [{"queue": self.queue}]

    def event_of(self, message: ReceivedMessage) -> CloudEvent:
        """Read a CloudEvent by the binding for RabbitMQ, or the one for AMQP 1.0."""
        return CloudEvent.from_amqp(message.headers, message.body, message.content_type or None)

    def health_check(self) -> bool:
        """Log in over a connection of its own; each answer may take `HEALTH_SECONDS`."""
        try:
            self._connect(HEALTH_SECONDS).close()
        except Exception:
            return False
        return True

    def lag(self) -> int:
        """Return how many messages of the queue no consumer has, and those that have arrived."""
        connection = self._opened()
        try:
            found = connection.call(lambda channel: channel.queue_declare(self.queue, passive=True))
        except ChannelRefused as error:
            self._refuse(error)
        return int(found.message_count) + len(connection.arrived)

    # --- The connection ----------------------------------------------------------------------

    def _connect(self, within: float = inf) -> ReceivingConnection:
        """Return an open connection.

        Raises:
            BackendUnavailable: The server can't be reached.
            BackendConfigurationError: It refuses the login.
        """
        options = {
            **self._address.options,
            "connect_timeout": min(self.connect_timeout, within),
            "heartbeat": self.heartbeat,
            "client_properties": {"connection_name": f"django-broadcaster {self.alias}"},
        }
        try:
            return ReceivingConnection(
                options, place=self._place, timeout=min(self.timeout, within)
            )
        except BackendUnavailable as error:
            if getattr(error.__cause__, "reply_code", None) in NEVER_ALLOWED:
                raise self._configuration_error(str(error)) from error
            raise

    def _opened(self) -> ReceivingConnection:
        if self._connection is None:
            raise unavailable(f"{self._place}: the consumer is not open")
        return self._connection

    def _prepare(self, connection: ReceivingConnection) -> None:
        """Declare the queue and its bindings, or check that it exists; raises ChannelRefused."""
        connection.call(
            lambda channel: channel.queue_declare(
                self.queue,
                passive=not self.declare,
                durable=self.durable,
                auto_delete=False,
                arguments=dict(self.queue_arguments),
            )
        )
        if self.declare and self.exchange is not None:
            for key in self.binding_keys:
                connection.call(partial(_bind, self.queue, self.exchange, key))

    def _consume(self, connection: ReceivingConnection) -> None:
        connection.consume(self.queue, prefetch=self.prefetch, exclusive=self.exclusive)
        if self.exclusive and connection.is_consumed_by_others(self.queue):
            raise self.option_error(
                "exclusive",
                f"has no effect on queue {self.queue!r}: only classic queues have exclusive "
                f"consumers. Create the queue with the argument {SINGLE_ACTIVE!r} instead",
            )
        self._is_consuming = True

    # --- Messages ----------------------------------------------------------------------------

    def _delivery(self, connection: ReceivingConnection, incoming: Incoming) -> Delivery:
        self._outstanding[incoming.tag] = None
        if incoming.delivery_count >= WARN_DELIVERIES and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "Consumer %r: RabbitMQ has delivered a message of queue %r %d times before; at its "
                "delivery limit (20 by default from RabbitMQ 4.0 on), a quorum queue drops a "
                "message or moves it to its dead-letter exchange.",
                *(self.alias, self.queue, incoming.delivery_count),
            )
        message = ReceivedMessage(
            body=incoming.body,
            headers=incoming.headers,
            content_type=incoming.content_type,
            origin=self.queue,
        )
        receipt = Receipt(connection, incoming.tag)
        if incoming.problem:
            return Delivery(message, receipt, problem=incoming.problem)
        return self.delivery(message, receipt)

    def _taken(
        self, connection: ReceivingConnection, deliveries: Sequence[Delivery]
    ) -> dict[int, None]:
        """Return the tags of those deliveries that this connection has, in order."""
        receipts = [delivery.receipt for delivery in deliveries]
        ours = {receipt.tag for receipt in receipts if receipt.connection is connection}
        return dict.fromkeys(sorted(ours & self._outstanding.keys()))

    def _forget(self, tags: Mapping[int, None]) -> None:
        for tag in tags:
            del self._outstanding[tag]

    # --- Errors and options ------------------------------------------------------------------

    def _refuse(self, error: ChannelRefused) -> NoReturn:
        """Raise what it means that the server closed the channel."""
        where = f"{self._place}: queue {self.queue!r}"
        text = str(error)
        if error.code == 406 and "'stream'" in text:
            raise self.option_error("queue", _NO_STREAMS) from error
        if error.code == 406 and "inequivalent arg" in text:
            problem = f"{text}. Set 'queue_arguments' and 'durable' as the queue was created"
            if SINGLE_ACTIVE in text and self.ordered:
                problem = (
                    f"{text}. An ordered consumer needs a queue with the argument "
                    f"{SINGLE_ACTIVE!r}: create it again, or set 'exclusive': True for a classic "
                    "queue, or 'ordered': False"
                )
            raise self._configuration_error(f"{where}: {problem}") from error
        if error.code == 404 and "no exchange" in text:
            hint = "the backend that publishes declares it, or: rabbitmqadmin declare exchange"
            raise unavailable(f"{where}: {text}; {hint} name={self.exchange} type=topic", error)
        if error.code == 404:
            command = f"rabbitmqadmin declare queue name={self.queue} durable=true"
            raise unavailable(f"{where}: {text}; create it, such as by: {command}", error)
        raise unavailable(f"{where}: {text}", error)

    def _configuration_error(self, problem: str) -> BackendConfigurationError:
        return BackendConfigurationError(f"OUTBOX_CONSUMERS[{self.alias!r}]['OPTIONS']: {problem}")

    def _keys(self, given: str | Sequence[str] | None) -> Sequence[str]:
        """Read `binding_key`, after `exchange`."""
        name = "binding_key"
        self.read.together(name, given, "exchange", self.exchange)
        if given is None:
            return ["#"]
        if not isinstance(given, str | list | tuple):
            self.read.refuse(name, "must be a string or a list of strings")
        keys = [given] if isinstance(given, str) else given
        return [self.read.text(name, key, SHORT_BYTES, empty=True, plain=True) for key in keys]

    def _arguments(self, given: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """Read `queue_arguments`, after `ordered`, `exclusive` and `declare`."""
        name = "queue_arguments"
        self.read.mapping(name, given, optional=True)
        arguments = dict(given or {})
        if arguments.get("x-queue-type") == "stream":
            self.read.refuse(name, _NO_STREAMS)
        if self.exclusive and arguments.get(SINGLE_ACTIVE):
            self.read.refuse("exclusive", f"can't be combined with the argument {SINGLE_ACTIVE!r}")
        if self.exclusive or not self.ordered:
            return arguments
        if not arguments.setdefault(SINGLE_ACTIVE, self.declare):
            self.read.refuse(
                name,
                f"must have {SINGLE_ACTIVE!r}: True for an ordered consumer: the queue must have "
                "been created with it, which 'declare': False can't check",
            )
        return arguments

    @property
    def _place(self) -> str:
        return f"RabbitMQ at {self._address.place}"


def _bind(queue: str, exchange: str, key: str, channel: Any) -> None:
    channel.queue_bind(queue, exchange, key)


def _reject(tag: int, channel: Any) -> None:
    channel.basic_reject(tag, False)
