"""The backend: its options, its topics, and what becomes of each error of librdkafka's."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from math import inf
from typing import Any, ClassVar, Final, Literal
from uuid import uuid4

from django_broadcaster.exceptions import (
    BackendConfigurationError,
    BackendUnavailable,
    DeliveryError,
    Rejected,
)

from ..base import Message, Shown
from ..bindings import KAFKA, STRUCTURED_TYPE, Binding, BindingBackend
from ..connected import HEALTH_SECONDS, ConnectedBackend
from ..errors import Scope, mapped, unavailable
from ..names import escape_topic
from ..outcomes import MessageBatch
from ..position import MOST_ROWS, Position
from .address import CLIENT, DEFAULT_SERVERS, Address
from .connection import (
    DEFAULTS,
    FRAMING_BYTES,
    HEADER_FRAMING_BYTES,
    RECORD_BYTES,
    REFUSED,
    Connection,
    Record,
    check_config,
    check_transactions,
    producer_config,
    transaction_milliseconds,
)
from .errors import ERRORS, describe
from .names import topic_problem
from .schemas import ValueWriter
from .sender import Planner, Sender
from .transactions import TransactionalConnection, TransactionSender

TOPIC_SECONDS: Final = 0.5
"""How long a batch waits, in all, for topics that the cluster may be making just now."""

MAX_WAVE: Final = 50_000
"""The most events in a wave: librdkafka's queue takes twice as many."""

MAX_TRANSACTIONAL_ID: Final = 200
"""Bytes of the option, beside what a relay appends. Kafka itself has no lower limit."""

_STRUCTURED_HEADERS: Final = [("content-type", STRUCTURED_TYPE.encode())]


class KafkaBackend(ConnectedBackend[Connection], BindingBackend):
    """Appends events to topics.

    Args:
        bootstrap_servers: `"host:port,host:port"`, or a list of them.
        username, password: The credentials. The mechanism is PLAIN, unless `config` has
            `sasl.mechanisms`.
        tls: True for an encrypted connection, or a dictionary of `ca_file`, `cert_file`,
            `key_file`, `verify` and `check_hostname`.
        topic: The topic, a template of `{type}`, `{source}`, `{subject}` and `{key}`.
        config: Further settings of librdkafka, by their own names.
        content_mode: "structured" or "binary".
        timestamp: "sent", the time at which the relay sends it, or "event", the event's own time if
            it has one.
        timeout: Seconds to wait until sent events are acknowledged, about a megabyte at a time, in
            transactions a batch at a time.
        schema_registry: If given, data are encoded by the schema of their type in Avro or Protobuf,
            in binary mode. A dictionary of `url`, `username`, `password`, `tls`, `timeout`,
            `format`, `schemas`, `subject` and `register`.
        transactional_id: If given, a batch and the ids of its rows are one transaction of Kafka. So
            nothing is sent twice, whatever crashes. Each relay appends `-` and the id of its lease.

    The `publisher_config` of an event may have `topic`.

    An event is acknowledged when all in-sync replicas have it (`acks=all`). If librdkafka repeats a
    record after a lost answer, it is stored once (`enable.idempotence`).

    Events are sent in waves. Kafka takes all of a wave that is for one partition, or nothing
    (`sender.py`). Three rules ensure that. librdkafka sends nothing before a wave is complete
    (`linger.ms`). The partitions of a topic are known before its first event is sent. librdkafka
    never gives up on an event by itself (`message.timeout.ms`). At the timeout all events in flight
    are unavailable and the producer is closed. Some of them may still be stored. They are sent
    again before all others, so they are duplicates, but not out of order.

    A record batch that is refused for its content (too large, invalid) is sent again in halves, one
    after the other. In the end the event that caused the refusal is alone.
    """

    system: ClassVar[str] = "kafka"
    client_library = CLIENT
    binding: Binding = KAFKA
    may_be_away_in_part = True

    config_keys: ClassVar[frozenset[str]] = frozenset({"topic"})

    default_max_message_bytes: ClassVar[int | None] = 1_000_000
    """Kafka's default for a record batch is 1,048,588, less what a key and headers may take."""

    def __init__(
        self,
        *,
        bootstrap_servers: str | Sequence[str] = DEFAULT_SERVERS,
        topic: str = "events",
        username: str | None = None,
        password: str | None = None,
        tls: bool | Mapping[str, Any] = False,
        config: Mapping[str, Any] | None = None,
        timestamp: Literal["sent", "event"] = "sent",
        timeout: float = 10.0,
        transactional_id: str | None = None,
        schema_registry: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if schema_registry is not None:
            options.setdefault("content_mode", "binary")
        super().__init__(**options)
        self.topic = topic
        self._template = self.read.template("topic", topic, escape_topic, topic_problem)
        self.timeout = self.read.seconds("timeout", timeout)
        self.timestamp = self.read.choice("timestamp", timestamp, ("sent", "event"))
        self.address = Address(
            self.read,
            bootstrap_servers=bootstrap_servers,
            username=username,
            password=password,
            tls=tls,
            config=config,
            refused=REFUSED,
        )
        check_config(self.read, self.address.config)
        self.transactional_id = self.read.text(
            "transactional_id", transactional_id, MAX_TRANSACTIONAL_ID, plain=True, optional=True
        )
        self._values: ValueWriter | None = None
        if schema_registry is not None:
            if self.content_mode != "binary":
                self.read.refuse("content_mode", "must be 'binary' with 'schema_registry'")
            self._values = ValueWriter(self.read, schema_registry)
        self._lease: int | None = None
        self._last_lease: int | None = None
        """The lease for which a producer was begun last."""
        if transactional_id is not None:
            check_transactions(self.read, self.address.config, self.timeout)
            self.keeps_positions = True
            self.max_batch = MOST_ROWS
        self._limit = self.max_message_bytes or 0
        sizes = {**DEFAULTS, **self.address.config}
        self._wave_bytes = min(int(sizes["batch.size"]), self._limit + RECORD_BYTES)
        self._wave_count = min(int(sizes["batch.num.messages"]), MAX_WAVE)

    # --- The contract ------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, and check the topic if all events have one; raises BackendUnavailable."""
        super().open()
        if self._template.is_constant:
            try:
                deadline = time.monotonic() + TOPIC_SECONDS
                self._find_topic(self.topic, self.connection(), deadline)
            except BaseException:
                self.close()
                raise

    def connect(self, within: float = inf) -> Connection:
        """Start a producer, which connects by itself.

        Raises:
            BackendUnavailable: A file of `tls` can't be read.
            BackendConfigurationError: librdkafka does not accept the configuration.
        """
        self.address.check_files()
        if self.keeps_positions:
            if self._lease is not None:
                raise unavailable(f"{self.address.place}: the connection of the relay was lost")
            return self._begin(uuid4().hex, within)
        with mapped(self._config_error):
            return Connection(
                producer_config(self.address, self._limit),
                place=self.address.place,
                timeout=min(self.timeout, within),
            )

    def _begin(self, suffix: object, within: float = inf) -> TransactionalConnection:
        """Start a producer with a transactional id, which ends the one that had it before."""
        self.address.check_files()
        config = producer_config(self.address, self._limit)
        config.setdefault("transaction.timeout.ms", transaction_milliseconds(self.timeout))
        with mapped(self._config_error):
            connection = TransactionalConnection(
                self.address,
                config,
                prefix=f"{self.transactional_id}-",
                suffix=str(suffix),
                timeout=min(self.timeout, within),
            )
        try:
            connection.begin()
        except BaseException:
            connection.close()
            raise
        return connection

    def must_take_over(self, lease: int) -> bool:
        """Return True if there is no producer of this lease."""
        return self.keeps_positions and (self._connection is None or self._lease != lease)

    def take_over(self, lease: int, earlier: Collection[int]) -> Sequence[Position]:
        """Start the producer of a lease, and end those of earlier ones.

        Raises:
            BackendUnavailable: The brokers do not answer, or the topic of all events is missing.
        """
        positions, place = [], None
        for each in sorted(set(earlier) - {lease}):
            self.on_progress()
            with closing(self._begin(each)) as connection:
                self.on_progress()
                positions.append(connection.read_position())
                place = connection.place or place
        if self.must_take_over(lease):
            self.drop()
            self.on_progress()
            has_sent = lease in earlier or lease == self._last_lease
            self._last_lease = lease
            own = self._begin(lease)
            try:
                if has_sent:
                    self.on_progress()
                    positions.append(own.read_position())
                if self._template.is_constant:
                    self._find_topic(self.topic, own, time.monotonic() + TOPIC_SECONDS)
            except BaseException:
                own.close()
                raise
            self._connection, self._lease = own, lease
        if isinstance(self._connection, TransactionalConnection):
            self._connection.place = self._connection.place or place
        return positions

    def store_position(self, position: Position) -> None:
        """Store a position in a transaction without records; raises BackendUnavailable."""
        connection = self.connection()
        if isinstance(connection, TransactionalConnection):
            with self.dropped_if_interrupted(), self.dropped_if_lost():
                connection.begin_transaction()
                connection.commit(position)

    def close(self) -> None:
        """Disconnect."""
        self._lease = None
        super().close()

    def deliver(self, batch: MessageBatch, connection: Connection) -> None:
        """Append the events of a batch in order; see `sender`."""
        messages = batch.messages
        topics = self._topics(messages, connection)
        if self._values is not None:
            self._values.prepare(messages, topics, self.on_progress)
        failure = partial(self._failure, connection)
        if isinstance(connection, TransactionalConnection):
            planner = Planner(batch, topics, self._record, sys.maxsize, MAX_WAVE)
            unsettled = dict(self.unsettled)
            sender: Sender = TransactionSender(
                batch, connection.send, failure, connection.lost, connection, unsettled
            )
        else:
            planner = Planner(batch, topics, self._record, self._wave_bytes, self._wave_count)
            sender = Sender(batch, connection.send, failure, connection.lost)
        waiting = list(range(len(messages)))
        while waiting:
            wave, waiting = planner.next_wave(waiting)
            if stop := sender.deliver(wave):
                self.drop()
                batch.give_up(waiting, stop)
                break

    def health_check(self) -> bool:
        """Ask for the topic over a connection of its own: an answer is enough, whatever it says."""
        name = self.topic if self._template.is_constant else "events"
        return self.address.answers(name, min(self.timeout, HEALTH_SECONDS))

    def returned(self) -> Collection[str]:
        """Return the names of schemas for which the registry has answered again."""
        return () if self._values is None else self._values.returned()

    def validate_config(self, config: Mapping[str, Any]) -> None:
        """Raise InvalidPublisherConfig for an unknown key or a wrong topic."""
        super().validate_config(config)
        if "topic" in config:
            self.read_config.check("topic", topic_problem(config["topic"]))

    def destination_of(self, message: Message) -> Mapping[str, Any]:
        """Return where the message goes, for `show`."""
        return {"topic": self._topic_name(message), "key": message.partition_key or None}

    def show(self, message: Message) -> Shown:
        """Return the headers and the body as they are sent, but the body of a schema as JSON."""
        if self._values is None:
            return super().show(message)
        shown = self.shown(message, self._values.shown(message))
        return replace(shown, encoding=self._values.encoding(message.event_type))

    # --- Topics ------------------------------------------------------------------------------

    def _topics(
        self, messages: Sequence[Message], connection: Connection
    ) -> list[str | DeliveryError]:
        """Return for each message its topic, or why it can't have one.

        Raises:
            BackendUnavailable: The cluster does not answer, or the topic of all events is missing.
        """
        if self.topic in connection.known and not any(message.config for message in messages):
            return [self.topic] * len(messages)
        found: dict[str, str | DeliveryError] = {}
        deadline = time.monotonic() + TOPIC_SECONDS
        topics: list[str | DeliveryError] = []
        for message in messages:
            name = self._topic_name(message)
            if name not in found:
                found[name] = self._topic(name, connection, deadline)
            topics.append(found[name])
        return topics

    def _topic_name(self, message: Message) -> str:
        if message.config or not self._template.is_constant:
            return message.config.get("topic") or self._template.render(message)
        return self.topic

    def _topic(self, name: str, connection: Connection, deadline: float) -> str | DeliveryError:
        if name in connection.known:
            return name
        if problem := topic_problem(name):
            return Rejected(f"topic: {problem}")
        try:
            self._find_topic(name, connection, deadline)
        except BackendUnavailable:
            raise
        except DeliveryError as failure:
            return failure
        return name

    def _find_topic(self, name: str, connection: Connection, deadline: float) -> None:
        """Check that a topic has partitions; raises a DeliveryError."""
        problem = connection.find_topic(name, deadline)
        if problem is not None:
            raise self._failure(connection, problem, name, Scope.DESTINATION)

    # --- Records ------------------------------------------------------------------------------

    def _record(self, place: int, message: Message, topic: str) -> Record:
        """Return the message as a record; raises Rejected for one that is too large."""
        body: bytes | None
        if self.content_mode == "structured":  # as the binding does, in half the time
            headers, body = _STRUCTURED_HEADERS, message.to_json()
            size = len(body)
            if traced := self.binding.trace_headers(message):
                headers = headers + [(name, value.encode()) for name, value in traced.items()]
                size += sum(map(len, chain.from_iterable(headers)))
        else:
            values = self._values
            wire = self.encode(message) if values is None else values.encode(message, topic)
            content_type, attributes, body = wire
            size = 0 if body is None else len(body)
            headers = [(name, value.encode()) for name, value in attributes.items()]
            if content_type:
                headers.append(("content-type", content_type.encode()))
            size += sum(map(len, chain.from_iterable(headers)))
        if size > self._limit:
            raise Rejected(
                f"the event takes {size} bytes, over the backend's max_message_bytes of "
                f"{self._limit}"
            )
        key = message.partition_key.encode() or None
        size += len(key or b"") + FRAMING_BYTES + HEADER_FRAMING_BYTES * len(headers)
        moment = 0 if self.timestamp == "sent" else _milliseconds(message.time)
        return Record(place, topic, key, body, headers, size, moment)

    def _failure(
        self, connection: Connection, error: Any, topic: str, found: Scope | None = None
    ) -> DeliveryError:
        """Return what an error of librdkafka's means for an event of that topic."""
        known = ERRORS.scope(error.name())
        is_shared = self._template.is_constant and topic == self.topic
        if found is None or known is Scope.INVALID_DESTINATION:
            found = known
        if found is Scope.BROKER:
            return connection.unavailable(error)
        if found in (Scope.DESTINATION, Scope.INVALID_DESTINATION):
            connection.known.discard(topic)
            if is_shared:
                return connection.unavailable(error, f" for topic {topic!r}")
        text = f"topic {topic!r} of {self.address.place}: {describe(error)}"
        return found.error(text, shared=is_shared, reason=f"Kafka answered {error.name()}")

    def _config_error(self, error: Exception) -> BackendConfigurationError:
        return self.option_error("config", f"librdkafka rejects the configuration: {error}")


def _milliseconds(time: datetime | None) -> int:
    """Return a time as Kafka's; 0, which means now, where it is missing or before 1970."""
    if time is None:
        return 0
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return max(0, round(aware.timestamp() * 1000))
