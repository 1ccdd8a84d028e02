"""The backend: its options, its topics, and what becomes of each error of librdkafka's."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from typing import Any, ClassVar, Final, Literal

from django_broadcaster.exceptions import (
    BackendUnavailable,
    DeliveryError,
    Rejected,
    TransientError,
)

from ..base import Message, Outcome
from ..bindings import KAFKA, STRUCTURED_TYPE, Binding, BindingBackend
from ..names import escape_topic
from ..outcomes import Batch
from .connection import (
    CLIENT,
    DEFAULTS,
    FRAMING_BYTES,
    HEADER_FRAMING_BYTES,
    RECORD_BYTES,
    client_config,
    library,
    producer,
    read_config,
)
from .errors import BEING_MADE, HOPELESS, Blame, blame
from .forks import begin_anew_in_child
from .names import topic_problem
from .sender import Failure, Judge, Planner, Record, Reports, stopped

HEALTH_SECONDS: Final = 1.0
"""The longest that a health check waits for an answer."""

TOPIC_SECONDS: Final = 0.5
"""How long a batch waits, in all, for topics that the cluster may be making just now."""

PURGE_SECONDS: Final = 1.0
"""How long librdkafka may take to give back what it was told to forget."""

MAX_WAVE: Final = 50_000
"""Events at the most in a wave: librdkafka's queue takes twice as many."""

_STRUCTURED_HEADERS: Final = [("content-type", STRUCTURED_TYPE.encode())]


class KafkaBackend(BindingBackend):
    """Appends events to topics.

    bootstrap_servers: `"host:port,host:port"`, or a list of them.
    topic: where events go whose `publisher_config` names no topic; may have `{type}`, `{source}`,
        `{subject}` and `{key}`.
    username, password: the credentials; the mechanism is PLAIN, unless `config` names another one
        by `sasl.mechanisms`.
    tls: True for an encrypted connection, or a dictionary of `ca_file`, `cert_file`, `key_file`,
        `verify` and `check_hostname`.
    config: further settings of librdkafka, by their own names.
    content_mode: `"structured"` or `"binary"`.
    timestamp: `"sent"`, when the relay sent it, or `"event"`, the event's own time, if it has one.
    timeout: seconds to wait until what was sent is acknowledged, about a megabyte at a time.

    `publisher_config` of an event may have `topic`.

    Nothing is acknowledged before all in-sync replicas have it (`acks=all`). What librdkafka sends
    again after a lost answer is stored once (`enable.idempotence`).

    Order: events are sent in waves of which Kafka takes all that is for one partition or nothing
    (`sender.py`). Three things make that sure: librdkafka sends nothing before a wave is
    complete (`linger.ms`), it knows a topic's partitions before the first event for it, and it
    gives up on no event by itself (`message.timeout.ms`): at the timeout everything is given back
    at once, and the producer with its connections is thrown away. What was under way then may
    still be stored. All of it is sent again first, so that it comes twice, but not out of order.

    A record batch that is refused for what is in it (too large, invalid) is sent again in halves,
    one after the other, until the event at fault stands alone.
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
        bootstrap_servers: str | Sequence[str] = "localhost:9092",
        topic: str = "events",
        username: str | None = None,
        password: str | None = None,
        tls: bool | Mapping[str, Any] = False,
        config: Mapping[str, Any] | None = None,
        timestamp: Literal["sent", "event"] = "sent",
        timeout: float = 10.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.topic = topic
        self._template = self.read.template("topic", topic, escape_topic, topic_problem)
        self.timeout = self.read.seconds("timeout", timeout)
        self.timestamp = self.read.choice("timestamp", timestamp, ("sent", "event"))
        self._servers = self._read_servers(bootstrap_servers)
        self._tls = self.read.tls(tls)
        login = self.read.login(username, password)
        self._config = read_config(self.read, config, login=login, tls=self._tls)
        self._limit = self.max_message_bytes or 0
        sizes = {**DEFAULTS, **self._config}
        self._wave_bytes = min(int(sizes["batch.size"]), self._limit + RECORD_BYTES)
        self._wave_count = min(int(sizes["batch.num.messages"]), MAX_WAVE)
        self._producer: Any = None
        self._known: set[str] = set()  # topics whose partitions the producer knows
        self._errors: deque[Any] = deque(maxlen=1)  # what librdkafka said last of its connections
        begin_anew_in_child(self)

    # --- The contract ------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, and look for the topic if all events have one; raises BackendUnavailable."""
        self.close()
        try:
            self._connect()
            if self._template.is_constant:
                self._find_topic(self.topic, time.monotonic() + TOPIC_SECONDS)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Disconnect; the next publish connects again."""
        producer = self.give_up_producer()
        if producer is not None:
            with suppress(Exception):
                producer.purge()
                producer.close()

    def give_up_producer(self) -> Any:
        """Forget the producer as it is, and return it; None if there is none."""
        producer, self._producer = self._producer, None
        self._known.clear()
        return producer

    def send(self, message: Message) -> None:
        """Append one event; raises its DeliveryError."""
        (outcome,) = self.send_batch([message])
        if outcome is not None:
            raise outcome

    def send_batch(self, messages: Sequence[Message]) -> list[Outcome]:
        """Append events in order; one outcome for each.

        Raises MissingClient, and BackendConfigurationError for what librdkafka will not start with.
        """
        batch = Batch(messages)
        if not messages:
            return batch.outcomes
        try:
            if self._producer is None:
                self._connect()
            topics = self._topics(messages)
        except BackendUnavailable as error:
            self.close()
            batch.give_up(0, error)
            return batch.outcomes
        planner = Planner(batch, topics, self._record, self._wave_bytes, self._wave_count)
        judge = Judge(batch, self._send, self._failure, self._lost)
        waiting = list(range(len(messages)))
        while waiting:
            wave, waiting = planner.next_wave(waiting)
            if stop := judge.deliver(wave):
                self.close()
                stopped(batch, waiting, stop)
                break
        return batch.outcomes

    def health_check(self) -> bool:
        """Ask for the topic over a connection of its own: an answer is enough, whatever it says."""
        try:
            config = {
                **self._client_config(),
                "enable.idempotence": False,
                "allow.auto.create.topics": False,
                "error_cb": _ignore,
            }
            client = producer(config)
            name = self.topic if self._template.is_constant else "events"
            client.list_topics(name, timeout=min(self.timeout, HEALTH_SECONDS))
            client.close()
        except Exception:
            return False
        return True

    def validate_config(self, config: Mapping[str, Any]) -> None:
        """Raise InvalidPublisherConfig for an unknown key or a wrong topic."""
        super().validate_config(config)
        if "topic" in config:
            self.read_config.check("topic", topic_problem(config["topic"]))

    def destination_of(self, message: Message) -> Mapping[str, Any]:
        """Return where the message goes, for `show`."""
        return {"topic": self._topic_name(message), "key": message.partition_key or None}

    # --- Topics ------------------------------------------------------------------------------

    def _topics(self, messages: Sequence[Message]) -> list[str | DeliveryError]:
        """Return for each message its topic, or why it can't have one.

        Raises BackendUnavailable if the cluster does not answer, or the topic of all events is not
        there.
        """
        if self.topic in self._known and not any(message.config for message in messages):
            return [self.topic] * len(messages)
        found: dict[str, str | DeliveryError] = {}
        deadline = time.monotonic() + TOPIC_SECONDS
        topics: list[str | DeliveryError] = []
        for message in messages:
            name = self._topic_name(message)
            if name not in found:
                found[name] = self._topic(name, deadline)
            topics.append(found[name])
        return topics

    def _topic_name(self, message: Message) -> str:
        if message.config or not self._template.is_constant:
            return message.config.get("topic") or self._template.render(message)
        return self.topic

    def _topic(self, name: str, deadline: float) -> str | DeliveryError:
        if name in self._known:
            return name
        if problem := topic_problem(name):
            return Rejected(f"topic: {problem}")
        try:
            self._find_topic(name, deadline)
        except BackendUnavailable:
            raise
        except DeliveryError as failure:
            return failure
        return name

    def _find_topic(self, name: str, deadline: float) -> None:
        """Have librdkafka know a topic's partitions; raises a DeliveryError if there are none.

        It asks by itself, too, but then events wait apart until the answer is there, and may go
        out in more than one record batch.
        """
        client = library()
        while True:
            try:
                found = self._producer.list_topics(name, timeout=self.timeout)
            except client.KafkaException as error:
                raise self._unavailable(error.args[0]) from error
            problem = found.topics[name].error
            if problem is None:
                self._known.add(name)
                return
            if problem.name() not in BEING_MADE or time.monotonic() > deadline:
                raise self._failure(problem, name, "topic")
            self._producer.poll(0.05)

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
            content_type, attributes, body = self.encode(message)
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

    def _send(self, records: Sequence[Record]) -> Reports:
        """Send records, and wait for what becomes of them; a fate that is not known is left out.

        Behind a record that librdkafka does not take, no other of its key is sent.
        """
        reports: Reports = {}

        def report(place: int, error: Any, message: Any) -> None:
            reports[place] = None if error is None else Failure(error, message.partition())

        client = library()
        produce = self._producer.produce
        passed: set[bytes | None] = set()
        try:
            for record in records:
                place, topic, key, value, headers, _, moment = record
                if passed and key in passed:
                    continue
                try:
                    produce(
                        topic,
                        value,
                        key,
                        timestamp=moment,
                        headers=headers,
                        on_delivery=partial(report, place),
                    )
                except client.KafkaException as error:
                    reports[place] = Failure(error.args[0], None)
                    if key is not None:
                        passed.add(key)
            if self._producer.flush(self.timeout):
                self._producer.purge()
                self._producer.flush(PURGE_SECONDS)
        except Exception as error:
            # librdkafka stopped for good. What has no report by now is not known to be stored.
            self._errors.append(error)
        except BaseException:
            self.close()
            raise
        return reports

    def _failure(self, error: Any, topic: str, kind: Blame | None = None) -> DeliveryError:
        """Return what an error of librdkafka's means for an event of that topic."""
        name = error.name()
        kind = kind or blame(name)
        if kind == "broker":
            return self._unavailable(error)
        if kind == "topic":
            self._known.discard(topic)
            if self._template.is_constant and topic == self.topic:
                # Nearly every event would meet it, and none of them is to blame: they wait until
                # it is put right. But a topic of only some events must not stop the others.
                return self._unavailable(error, f" for topic {topic!r}")
        failure = Rejected if name in HOPELESS else TransientError
        return failure(f"topic {topic!r} of Kafka at {self._servers}: {name}: {error.str()}")

    def _lost(self) -> BackendUnavailable:
        return self._unavailable(f"no answer within {self.timeout} s")

    def _unavailable(self, error: Any, what: str = "") -> BackendUnavailable:
        """Return the failure for librdkafka's error, with what it said last of its connections."""
        if self._producer is not None:
            with suppress(Exception):
                self._producer.poll(0)  # hands over what it has to say
        said = [_text(each) for each in (error, *self._errors)]
        return BackendUnavailable(f"Kafka at {self._servers}{what}: {'; '.join(said)}")

    # --- The client --------------------------------------------------------------------------

    def _connect(self) -> None:
        """Start a producer, which connects by itself.

        Raises:
            BackendUnavailable: A file of `tls` can't be read.
            BackendConfigurationError: librdkafka does not accept its settings.
        """
        client = library()
        self._errors.clear()
        try:
            if self._tls is not None:
                self._tls.check_files()
        except OSError as error:
            raise BackendUnavailable(f"Kafka at {self._servers}: TLS: {error}") from error
        try:
            self._producer = producer(self._client_config())
        except (client.KafkaException, TypeError, ValueError) as error:
            raise self.option_error("config", f"librdkafka does not take it: {error}") from error
        # It asks for its producer id first of all. If we asked for a topic meanwhile, it would
        # find no connection free, and try again only half a second later.
        self._producer.poll(0.01)

    def _client_config(self) -> dict[str, Any]:
        logs = {"logger": logging.getLogger("django_broadcaster")}
        config = client_config(self._servers, self._limit, self._config)
        return {**logs, **config, "error_cb": self._errors.append}

    def _read_servers(self, servers: Any) -> str:
        """Return `bootstrap_servers` as librdkafka takes them."""
        listed = [servers] if isinstance(servers, str) else servers
        holds = isinstance(listed, Sequence) and not isinstance(listed, bytes) and bool(listed)
        holds = holds and all(isinstance(each, str) and each for each in listed)
        rule = "'host:port', or a list of these"
        self.read.require("bootstrap_servers", servers, holds, rule)
        return ",".join(listed)


def _milliseconds(time: datetime | None) -> int:
    """Return a time as Kafka's; 0, which stands for now, where it is missing or before 1970."""
    if time is None:
        return 0
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return max(0, round(aware.timestamp() * 1000))


def _ignore(_: object) -> None:
    pass


def _text(error: Any) -> str:
    """Return the name of librdkafka's error and what it says; other errors as they are."""
    return f"{error.name()}: {error.str()}" if hasattr(error, "name") else str(error)
