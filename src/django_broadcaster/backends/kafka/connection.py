"""The producer: its settings, and how records are sent with it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

from django_broadcaster.exceptions import BackendUnavailable

from ..connected import HeldConnection
from ..errors import mapped, unavailable
from ..options import OptionReader
from .address import CLOSE_SECONDS, Address, client_class
from .bounded import bounded
from .errors import BEING_MADE, describe

PURGE_SECONDS: Final = 1.0
"""The longest that librdkafka may take to return purged records, in seconds."""

PURGED: Final = frozenset({"_PURGE_INFLIGHT", "_PURGE_QUEUE"})
"""The errors of purged records, which got no answer in time and may be stored."""

PROBLEMS_SECONDS: Final = 1.0
"""The longest that a broker may take to say what is wrong with a topic, in seconds."""

MAX_PROBLEMS: Final = 3
"""The most partitions that an error names."""


class Record(NamedTuple):
    """A message as Kafka takes it; `place` is its index in the batch, `size` in bytes.

    `timestamp` is in milliseconds, 0 for the moment at which it is sent.
    """

    place: int
    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    size: int
    timestamp: int = 0


class Failure(NamedTuple):
    """Why a record was not stored: `error` is librdkafka's.

    `partition` is None for a record that librdkafka itself did not take.
    """

    error: Any
    partition: int | None


Reports = dict[int, Failure | None]
"""Outcomes by place: None for an acknowledgement. A record of unknown fate is not there."""


class Connection(HeldConnection):
    """A producer of librdkafka's, which connects by itself.

    known: the topics whose partitions it knows.
    timeout: seconds to wait until what was sent is acknowledged.
    """

    def __init__(self, config: Mapping[str, Any], *, place: str, timeout: float) -> None:
        self._error = client_class("KafkaException")
        self._place, self.timeout = place, timeout
        self._errors: deque[Any] = deque(maxlen=1)  # what librdkafka said last of its connections
        self.known: set[str] = set()
        self.is_late = False
        """Whether an answer did not come in time."""
        self.last_stored: Any = None
        """The record, as the client reports it, that was stored last."""
        self.producer = client_class("Producer")({**config, "error_cb": self._errors.append})
        # It asks for its producer id first of all. If we asked for a topic now, it would
        # find no connection free, and try again only half a second later.
        self.producer.poll(0.01)

    def close(self) -> None:
        """Disconnect; what was not acknowledged is forgotten."""
        with suppress(Exception):
            self.producer.purge()
            bounded(self.producer.close, CLOSE_SECONDS, "kafka-close")

    def find_topic(self, name: str, deadline: float) -> Any:
        """Have librdkafka know a topic's partitions; return the error if there are none, or None.

        librdkafka asks by itself, too. But then events wait apart until the answer is there, and
        may go out in more than one record batch.

        Raises:
            BackendUnavailable: The cluster does not answer.
        """
        while True:
            with mapped(lambda error: self.unavailable(error.args[0] if error.args else error)):
                found = self.producer.list_topics(name, timeout=self.timeout)
            problem = found.topics[name].error
            if problem is None:
                self.known.add(name)
                return None
            if problem.name() not in BEING_MADE or time.monotonic() > deadline:
                return problem
            self.producer.poll(0.05)

    def send(self, records: Sequence[Record]) -> Reports:
        """Send records, and wait for what becomes of them; a fate that is not known is left out.

        After a record that librdkafka does not take, no other of its key is sent.
        """
        reports: Reports = {}

        def report(place: int, error: Any, message: Any) -> None:
            if error is None:
                reports[place], self.last_stored = None, message
            else:
                reports[place] = Failure(error, message.partition())

        produce = self.producer.produce
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
                except self._error as error:
                    reports[place] = Failure(error.args[0], None)
                    if key is not None:
                        passed.add(key)
            if self.producer.flush(self.timeout):
                self.is_late = True
                self.producer.purge()
                self.producer.flush(PURGE_SECONDS)
                for place, failure in [*reports.items()]:
                    if failure is not None and failure.error.name() in PURGED:
                        del reports[place]
        except Exception as error:
            # librdkafka stopped for good. What has no report by now is not known to be stored.
            self._errors.append(error)
        return reports

    def unavailable(self, error: Any, what: str = "") -> BackendUnavailable:
        """Return the failure for librdkafka's error, with what it said last of its connections."""
        with suppress(Exception):
            self.producer.poll(0)  # reports what it has to say
        said = "; ".join(describe(each) for each in (error, *self._errors))
        return unavailable(f"{self._place}{what}: {said}")

    def lost(self, topic: str) -> BackendUnavailable:
        """Return the failure of a record for a topic whose fate is not known."""
        reasons = [f"no answer within {self.timeout} s", *self._problems(topic)]
        return self.unavailable("; ".join(reasons))

    def _problems(self, topic: str) -> list[str]:
        """Return why partitions of a topic may take no records, if a broker says so soon.

        librdkafka itself retries, and does not report what the brokers answer.
        """
        try:
            found = self.producer.list_topics(topic, timeout=min(self.timeout, PROBLEMS_SECONDS))
        except Exception:
            return []
        problems = []
        for number, partition in sorted(found.topics[topic].partitions.items()):
            in_sync, replicas = len(partition.isrs), len(partition.replicas)
            where = f"partition {number} of topic {topic!r} has"
            if partition.leader < 0:
                problems.append(f"{where} no leader")
            elif in_sync < replicas:
                problems.append(f"{where} {in_sync} of {replicas} replicas in sync")
        return problems[:MAX_PROBLEMS]


# --- Settings: https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md -----------

RECORD_BYTES: Final = 48_576
"""Bytes of a record beside the event: its key, the names of its headers, Kafka's framing."""

FRAMING_BYTES: Final = 64
"""The most that Kafka's format adds to a record, and to a record batch."""

HEADER_FRAMING_BYTES: Final = 10
"""The most that it adds to a header."""

TRANSACTION_WAITS: Final = 3
"""How often a batch waits for `timeout`: for its records, its position and its commit."""

MOST_TRANSACTION_SECONDS: Final = 900
"""Kafka's default for `transaction.max.timeout.ms`."""

DEFAULTS: Final[Mapping[str, Any]] = {
    # As the clients in Java choose partitions: all producers of a topic agree where a key belongs.
    "partitioner": "murmur2_random",
    "batch.size": 1_000_000,
    "batch.num.messages": 10_000,
}

_OURS: Final[Mapping[str, Any]] = {
    "acks": "all",
    "enable.idempotence": True,
    # Never send part of a wave, nor give up on single events of it: see `KafkaBackend`.
    "linger.ms": 300_000,
    "message.timeout.ms": 0,
}

_MUST_BE: Final[Mapping[str, tuple[str, ...]]] = {
    "acks": ("all", "-1"),
    "request.required.acks": ("all", "-1"),
    "enable.idempotence": ("true", "1", "t"),
    "delivery.report.only.error": ("false", "0", "f"),
}

REFUSED: Final[Mapping[str, str]] = {
    "message.max.bytes": "give the option 'max_message_bytes' instead",
    "message.timeout.ms": "give the option 'timeout' instead",
    "delivery.timeout.ms": "give the option 'timeout' instead",
    "transactional.id": "give the option 'transactional_id' instead",
    **dict.fromkeys(("linger.ms", "queue.buffering.max.ms"), "the backend decides when to send"),
    **dict.fromkeys(
        ("queue.buffering.max.messages", "queue.buffering.max.kbytes"),
        "no more than 'batch.size' waits to be sent",
    ),
    "on_delivery": "the backend uses it",
}
"""The keys of `config` that can't be set, each with the reason."""


def check_config(read: OptionReader, config: Mapping[str, Any]) -> None:
    """Refuse what contradicts a promise of the backend; raises BackendConfigurationError.

    Whether librdkafka knows a key, and takes its value, it says itself when it is started.
    """
    within = read.within("config")
    for key, value in config.items():
        text = str(value).lower()
        if key in _MUST_BE and text not in _MUST_BE[key]:
            within.refuse(key, f"must be {_MUST_BE[key][0]!r}, or left out: events would get lost")
        elif key == "partitioner" and text == "random":
            within.refuse(key, "can't be 'random': the events of a key would have no order")
        elif key in ("batch.size", "batch.num.messages") and not text.isdecimal():
            within.refuse(key, f"must be a whole number, not {value!r}")


def check_transactions(read: OptionReader, config: Mapping[str, Any], timeout: float) -> None:
    """Refuse a timeout of transactions that a batch may exceed.

    Raises:
        BackendConfigurationError: It is not longer than the waits of a batch.
    """
    text = str(config.get("transaction.timeout.ms", transaction_milliseconds(timeout)))
    least = round((TRANSACTION_WAITS * timeout + CLOSE_SECONDS) * 1000)
    if not text.isdecimal() or int(text) <= least:
        read.within("config").refuse(
            "transaction.timeout.ms",
            f"must be more than {TRANSACTION_WAITS} times 'timeout' and {CLOSE_SECONDS:g} s, "
            f"{least} in all, not {text!r}; set it, or reduce 'timeout'",
        )


def transaction_milliseconds(timeout: float) -> int:
    """Return the time after which Kafka aborts a transaction by itself.

    A batch waits for its records, its position and its commit, each for at most `timeout`.
    """
    return round(min(TRANSACTION_WAITS * timeout + 10, MOST_TRANSACTION_SECONDS) * 1000)


def producer_config(address: Address, max_message_bytes: int) -> dict[str, Any]:
    """Return librdkafka's settings: our defaults, then the project's, then the fixed ones."""
    given = {key: value for key, value in address.settings(DEFAULTS).items() if key not in _MUST_BE}
    return {**given, **_OURS, "message.max.bytes": max_message_bytes + RECORD_BYTES}
