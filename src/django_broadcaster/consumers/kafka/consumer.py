"""The consumer for Kafka: its options, and the contract."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final, TypeVar

from django_broadcaster.backends.connected import HEALTH_SECONDS
from django_broadcaster.backends.errors import mapped, unavailable
from django_broadcaster.backends.kafka.address import (
    CLIENT,
    DEFAULT_SERVERS,
    Address,
    client_class,
)
from django_broadcaster.backends.kafka.bounded import bounded
from django_broadcaster.backends.kafka.errors import describe
from django_broadcaster.backends.kafka.names import topic_problem
from django_broadcaster.backends.kafka.schemas import ValueReader
from django_broadcaster.consumers.base import Consumer, Delivery, ReceivedMessage
from django_broadcaster.consumers.positions import Position
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import BackendConfigurationError, BackendUnavailable

from .lag import Lag
from .offsets import Partition, Receipt, to_commit
from .records import as_json, is_encoded, message_of
from .settings import REFUSED, RESETS, settings_of

T = TypeVar("T")


STORES: Final = ("broker", "database")
"""The values of `offsets`."""

REBALANCED: Final = frozenset({
    "FENCED_INSTANCE_ID", "ILLEGAL_GENERATION", "REBALANCE_IN_PROGRESS", "UNKNOWN_MEMBER_ID",
    "_ASSIGNMENT_LOST", "_NO_OFFSET",
})  # fmt: skip
"""Errors of a commit that came too late, or too early: the partitions are moving."""

_PASSING: Final = frozenset({"_MAX_POLL_EXCEEDED"})
"""Errors after which librdkafka goes on by itself."""

_STOPPING: Final = frozenset({"_ALL_BROKERS_DOWN", "_FATAL"})
"""Errors of a client that are said once. A receiver with a name that another one has is fatal."""


DECODE_SECONDS: Final = 10.0
"""The time to decode records for one call: a schema registry may be slow.

The rest is left for the next call. Kafka expects one within `max.poll.interval.ms`, 300 seconds.
"""

_MISSING: Final = frozenset({"UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC"})


class KafkaConsumer(Consumer):
    """Receives the records of topics, as a member of a consumer group.

    Args:
        topics: The name of a topic, or a list. A name that begins with `^` is a regular expression:
            `"^orders\\\\..*"` reads all topics that match, also those that are created later.
        group: The name of the consumer group. Receivers with the same group share the partitions.
        group_instance_id: A name of this receiver that no other one of the group has. A receiver
            that restarts within `session_timeout` keeps its partitions, without a rebalance.
        offsets: Where the offsets are stored. "broker" is Kafka alone: after a crash, records that
            were stored and not yet committed are received again. With "database" the offset of
            each partition is stored in the transaction of the rows as well, and is read from
            there: a crash repeats nothing.
        start: Where a group without a committed offset begins: "all" for the first record of a
            partition, "new" for those that come from then on.
        session_timeout: Seconds after which the partitions of a receiver that died are given to
            others.
        bootstrap_servers: `"host:port,host:port"`, or a list of them.
        username, password: The credentials. The mechanism is PLAIN, unless `config` has
            `sasl.mechanisms`.
        tls: True for an encrypted connection, or a dictionary of `ca_file`, `cert_file`,
            `key_file`, `verify` and `check_hostname`.
        config: Further settings of librdkafka, by their own names.
        timeout: Seconds to wait for each answer of a broker.
        schema_registry: If given, values in Avro or Protobuf are decoded to JSON by the schema of
            their writer. A dictionary of `url`, `username`, `password`, `tls`, `timeout`, `format`
            and, for Protobuf, `schemas`.
    """

    system: ClassVar[str] = "kafka"
    client_library = CLIENT
    shares_by_key = True

    def __init__(
        self,
        *,
        topics: str | Sequence[str],
        group: str,
        group_instance_id: str | None = None,
        offsets: str = "broker",
        start: str = "all",
        session_timeout: float = 10.0,
        bootstrap_servers: str | Sequence[str] = DEFAULT_SERVERS,
        username: str | None = None,
        password: str | None = None,
        tls: bool | Mapping[str, Any] = False,
        config: Mapping[str, Any] | None = None,
        timeout: float = 10.0,
        schema_registry: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.topics = list(self.read.one_or_more("topics", topics, "the name of a topic"))
        self._patterns = [self._pattern(each) for each in self.topics if each.startswith("^")]
        self._names = [each for each in self.topics if not each.startswith("^")]
        for name in self._names:
            self.read.check("topics", topic_problem(name))
        self.group = self.read.text("group", group, 255)
        self.group_instance_id = self.read.text(
            "group_instance_id", group_instance_id, 249, optional=True
        )
        self.offsets = self.read.choice("offsets", offsets, STORES)
        self.start = self.read.choice("start", start, RESETS)
        self.session_timeout = self.read.seconds("session_timeout", session_timeout, 1, 1800)
        self.timeout = self.read.seconds("timeout", timeout, 1, 300)
        self.address = Address(
            self.read,
            bootstrap_servers=bootstrap_servers,
            username=username,
            password=password,
            tls=tls,
            config=config,
            refused=REFUSED,
        )
        self._values: ValueReader | None = None
        if schema_registry is not None:
            self._values = ValueReader(self.read, schema_registry)
            self.content_type = self._values.content_type
        self._lag = Lag(
            self._names,
            self._patterns,
            from_the_first=self.start == "all",
            timeout=self.timeout,
            failure=self._unavailable,
        )
        self._client: Any = None
        self._partitions: dict[tuple[str, int], Partition] = {}
        self._early: list[Any] = []
        self._is_paused = self._has_joined = False
        self._outage = ""  # the error after which this client is of no use
        self._not_taken: Exception | None = None  # why the offsets could not be read
        self._errors: deque[Any] = deque(maxlen=1)  # what librdkafka said last of its connections

    # --- The contract ------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, look for the topics, and join the group.

        Raises:
            BackendUnavailable: No broker answers, or a topic is missing.
            BackendConfigurationError: librdkafka does not accept the configuration.
        """
        self.close()
        self.address.check_files()
        if self._values is not None:
            self._values.open()
        self._outage, self._not_taken = "", None
        self._is_paused = False
        self._lag.forget()
        with mapped(self._config_error):
            self._client = client_class("Consumer")(self._settings())
        try:
            for name in self._names:
                self._check_topic(name)
            self._client.subscribe(
                self.topics,
                on_assign=self._assigned,
                on_revoke=self._revoked,
                on_lost=self._lost,
            )
            self._join()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Commit what is acknowledged, leave the group, and disconnect.

        A receiver with a `group_instance_id` does not leave: it may be back soon.
        """
        client, self._client = self._client, None
        if client is not None:
            if not self._outage:
                with suppress(BackendUnavailable):
                    self._commit_offsets(client, self._partitions.values())
            with suppress(Exception):
                self._bounded(client.close)
        self._forget(list(self._partitions))
        self._early.clear()

    def receive(self, limit: int, seconds: float) -> list[Delivery]:
        """Return up to `limit` records, those of each partition in order."""
        self._raise_outage()  # also while other partitions have records
        self._resume()
        self._commit()
        deadline = time.monotonic() + seconds
        while True:
            deliveries = self._take(limit, max(0.0, deadline - time.monotonic()))
            if deliveries:
                return deliveries
            self._raise_outage()
            if time.monotonic() >= deadline:
                return []

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Commit the offset of each partition, up to the first record that is not acknowledged.

        Records of a partition that was given to another receiver are left out. If the group is
        being rebalanced, the offsets are committed later.
        """
        for delivery in deliveries:
            receipt: Receipt = delivery.receipt
            receipt.partition.acknowledge(receipt.offset)
        self._commit()

    def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Tell the group that the receiver is alive, and take part in a rebalance.

        Fetching is paused meanwhile.
        """
        client = self._open_client()
        with mapped(self._failure):
            client.pause([each.place for each in self._partitions.values()])
            self._is_paused = True
            while (message := client.poll(0)) is not None:
                self._early.append(message)
        self._raise_outage()

    def position_of(self, delivery: Delivery) -> Position | None:
        """Return the offset after a record, if the database stores it."""
        receipt: Receipt = delivery.receipt
        source = receipt.partition.source
        return None if source is None else Position(source, receipt.offset + 1)

    def origins(self) -> Sequence[Mapping[str, str]]:
        """Return the topics, or patterns of topics."""
        return [{"topic": each} for each in self.topics]

    def decode(self, message: ReceivedMessage) -> CloudEvent | None:
        """Return the event of a record, whose value may be encoded by a schema; may raise."""
        if self._values is not None and is_encoded(message):
            message = as_json(message, self._values)
        return super().decode(message)

    def event_of(self, message: ReceivedMessage) -> CloudEvent:
        """Read a record of the binding for Kafka."""
        return CloudEvent.from_kafka(message.headers, message.body if message.has_body else None)

    def health_check(self) -> bool:
        """Return True if a broker answers over a connection of its own."""
        name = self._names[0] if self._names else "events"
        return self.address.answers(name, min(self.timeout, HEALTH_SECONDS))

    def lag(self) -> int:
        """Return the number of records that are not committed, of all partitions of the group."""
        client = self._open_client()
        with mapped(self._failure):
            return self._lag.ask(client)

    # --- Records -----------------------------------------------------------------------------

    def _take(self, limit: int, seconds: float) -> list[Delivery]:
        """Return the deliveries of what has been fetched; wait for the first record."""
        client = self._open_client()
        with mapped(self._failure):
            # Also if enough was kept: Kafka has to hear of the receiver. Partitions may be revoked
            # within each call, so what was kept stays in `_early`, where `_forget` finds it.
            first = client.poll(0 if self._early else seconds)
            if first is not None:
                self._early.append(first)
            if self._early and len(self._early) < limit:
                more = client.consume(limit - len(self._early), 0)
                self._early += more
        messages, self._early = self._early[:limit], self._early[limit:]
        deliveries: list[Delivery] = []
        deadline = time.monotonic() + DECODE_SECONDS
        for index, each in enumerate(messages):
            if deliveries and time.monotonic() >= deadline:
                self._early = messages[index:] + self._early
                break
            delivery = self._delivery(each)
            if delivery is not None:
                deliveries.append(delivery)
        # A partition may have been revoked while the later ones were taken.
        return [each for each in deliveries if each.receipt.partition.is_assigned]

    def _delivery(self, record: Any) -> Delivery | None:
        """Return the delivery of a record; None for another event of librdkafka's.

        Raises:
            BackendUnavailable: The event is an error.
        """
        error = record.error()
        partition = self._partitions.get((record.topic(), record.partition()))
        if error is not None:
            if error.name() == "_PARTITION_EOF":
                if partition is not None:
                    partition.reached_end(record.offset())
                return None
            if error.name() in _PASSING:
                return None
            raise self._unavailable(error)
        if partition is None:
            return None
        offset: int = record.offset()
        partition.received(offset)
        receipt = Receipt(partition, offset)
        message, problem = message_of(record)
        if problem:
            return Delivery(message, receipt, problem=problem)
        return self.delivery(message, receipt)

    # --- Partitions --------------------------------------------------------------------------

    def _join(self) -> None:
        """Wait until the group has given this receiver its partitions, at most for the timeout.

        Others may have to give them up first. `receive` goes on with that.
        """
        self._has_joined = False
        deadline = time.monotonic() + self.timeout
        while not self._has_joined and time.monotonic() < deadline:
            with mapped(self._failure):
                message = self._client.poll(0.1)
            if message is not None:
                self._early.append(message)
            self._raise_outage()

    def _assigned(self, client: Any, places: Iterable[Any]) -> None:
        if client is not self._client:
            return
        self._has_joined = True
        partitions = [Partition(each.topic, each.partition) for each in places]
        if self.offsets == "database" and partitions:
            try:
                self._take_sources(partitions)
            except Exception as error:  # the records of these partitions are left out
                self._not_taken = error
                return
            client.incremental_assign([each.begin for each in partitions])
        for each in partitions:
            self._partitions[each.topic, each.number] = each

    def _take_sources(self, partitions: Collection[Partition]) -> None:
        """Take the partitions' positions in the database; raises its errors."""
        if self.take_sources is None:
            raise self.option_error("offsets", "'database' needs a receiver, which writes them")
        names = {f"{self.group}/{each.topic}/{each.number}": each for each in partitions}
        for source in self.take_sources(names):
            names[source.name].source = source

    def _revoked(self, client: Any, places: Iterable[Any]) -> None:
        """Commit what is acknowledged, before the partitions go to others.

        The request leaves before the one that gives the partitions up. An answer can't be waited
        for here, within a call of the client. `close` has committed already. A client that hung
        while it was closed may report after the next one has its partitions, which are not meant.
        """
        if client is not self._client:
            return
        keys = [(each.topic, each.partition) for each in places]
        offsets = to_commit(self._partitions[key] for key in keys if key in self._partitions)
        if offsets:
            with suppress(Exception):
                client.commit(offsets=offsets, asynchronous=True)
        self._forget(keys)

    def _lost(self, client: Any, places: Iterable[Any]) -> None:
        if client is self._client:
            self._forget([(each.topic, each.partition) for each in places])

    def _forget(self, keys: Collection[tuple[str, int]]) -> None:
        """Leave out what is received of partitions from now on, until they are assigned again."""
        for key in keys:
            partition = self._partitions.pop(key, None)
            if partition is not None:
                partition.give_up()
        # If they come back, they are read from the committed offset.
        self._early = [each for each in self._early if (each.topic(), each.partition()) not in keys]

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            with mapped(self._failure):
                places = [each.place for each in self._partitions.values()]
                self._open_client().resume(places)

    # --- Offsets -----------------------------------------------------------------------------

    def _commit(self) -> None:
        self._commit_offsets(self._open_client(), self._partitions.values())

    def _commit_offsets(self, client: Any, partitions: Iterable[Partition]) -> None:
        """Commit what is acknowledged; raises BackendUnavailable."""
        offsets = to_commit(partitions)
        if not offsets:
            return
        try:
            answers = self._bounded(lambda: client.commit(offsets=offsets, asynchronous=False))
        except client_class("KafkaException") as error:
            if error.args[0].name() not in REBALANCED:
                raise self._unavailable(error.args[0]) from error
            return
        for each in answers:
            if each.error is None:
                partition = self._partitions.get((each.topic, each.partition))
                if partition is not None:
                    partition.committed = each.offset
            elif each.error.name() not in REBALANCED:
                raise self._unavailable(each.error)

    # --- The client --------------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        ours = settings_of(
            group=self.group,
            group_instance_id=self.group_instance_id,
            start=self.start,
            session_timeout=self.session_timeout,
            timeout=self.timeout,
        )
        return self.address.settings({**ours, "error_cb": self._note_error})

    def _pattern(self, text: str) -> re.Pattern[str]:
        try:
            return re.compile(text)
        except re.error as error:
            raise self.option_error(
                "topics", f"{text!r} is not a valid regular expression: {error}"
            ) from error

    def _check_topic(self, name: str) -> None:
        """Raise BackendUnavailable if a topic is missing, or may not be read."""
        with mapped(self._failure):
            found = self._client.list_topics(name, timeout=self.timeout)
        error = found.topics[name].error
        if error is None:
            return
        text = f"{self.address.place}: topic {name!r}: {describe(error)}"
        if error.name() in _MISSING:
            servers = self.address.servers
            command = f"kafka-topics.sh --bootstrap-server {servers} --create --topic {name}"
            text += f"; create it, for example with: {command}"
        raise unavailable(text)

    def _open_client(self) -> Any:
        if self._client is None:
            raise unavailable(f"{self.address.place}: not connected")
        return self._client

    def _bounded(self, call: Callable[[], T]) -> T:
        """Make a call that librdkafka may never end, and give it up after the timeout.

        Raises:
            BackendUnavailable: The call has not ended.
        """
        try:
            return bounded(call, self.timeout + 1, f"kafka-{self.alias}")
        except TimeoutError:
            self._outage = f"no answer within {self.timeout} s"
            raise unavailable(f"{self.address.place}: {self._outage}") from None

    def _note_error(self, error: Any) -> None:
        self._errors.append(error)
        if error.name() in _STOPPING:
            self._outage = describe(error)

    def _raise_outage(self) -> None:
        """Raise the error after which this client is of no use, if there is one."""
        if self._not_taken is not None:
            raise self._not_taken
        if self._outage:
            raise unavailable(f"{self.address.place}: {self._outage}")

    def _unavailable(self, error: Any) -> BackendUnavailable:
        """Return the failure for librdkafka's error, with what it said last of its connections."""
        said = "; ".join(describe(each) for each in (error, *self._errors))
        return unavailable(f"{self.address.place}: {said}")

    def _failure(self, error: Exception) -> BackendUnavailable:
        if self._client is not None and not self._errors:
            with suppress(Exception):
                self._client.poll(0)  # reports what it has to say of its connections
        return self._unavailable(error.args[0] if error.args else error)

    def _config_error(self, error: Exception) -> BackendConfigurationError:
        return self.option_error("config", f"librdkafka rejects the configuration: {error}")
