"""Batches as transactions of Kafka, each together with its position.

The producer of a lease has a transactional id of its own. Its position is the metadata of an offset
that it commits in the transaction, for a consumer group with the same name. Who starts a producer
with the same id ends the one before: Kafka aborts its open transaction, or completes the one that
it was committing, and accepts nothing more of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from django_broadcaster.exceptions import BackendUnavailable, DeliveryError

from ..errors import client_module, mapped, unavailable
from ..position import Position, decode, encode, mark_of
from .address import CLIENT, CLOSE_SECONDS, Address, client_class
from .bounded import bounded
from .connection import PURGE_SECONDS, Connection, Record, Reports
from .errors import COORDINATOR_MOVES, is_about_records
from .sender import Sender

UNSTABLE_PAUSE: Final = 0.02
"""Seconds between questions for a position while its transaction is being completed."""

PURGED: Final = 5
"""The most attempts of a transaction whose records librdkafka purges."""

_HINTS: Final[Mapping[str, str]] = {
    "TRANSACTIONAL_ID_AUTHORIZATION_FAILED": (
        "allow the operations Write and Describe on transactional ids that begin with {prefix!r}"
    ),
    "GROUP_AUTHORIZATION_FAILED": "allow the operation Read on groups that begin with {prefix!r}",
    "TOPIC_AUTHORIZATION_FAILED": (
        "transactions need the operations Read, Write and Describe on the topic"
    ),
    "INVALID_TRANSACTION_TIMEOUT": (
        "set 'transaction.timeout.ms' in 'config' to the brokers' transaction.max.timeout.ms or "
        "less"
    ),
    "OFFSET_METADATA_TOO_LARGE": "set offset.metadata.max.bytes of the brokers to 4096 or more",
    "_UNSUPPORTED_FEATURE": "the broker has no transactions; remove the option 'transactional_id'",
    "_FENCED": "another relay has taken over",
    "INVALID_PRODUCER_EPOCH": "another relay has taken over, or the transaction took too long",
    "PRODUCER_FENCED": "another relay has taken over",
}
"""The fix or the meaning of an error; `prefix` is that of the transactional ids."""


class TransactionalConnection(Connection):
    """A producer that sends in transactions. `begin` is called before anything else.

    Args:
        address: Where the brokers are.
        config: The settings of the producer.
        prefix: The first part of the transactional id, which ACLs name.
        suffix: The rest of it.
        timeout: Seconds that each wait may take.
    """

    def __init__(
        self,
        address: Address,
        config: Mapping[str, Any],
        *,
        prefix: str,
        suffix: str,
        timeout: float,
    ) -> None:
        self._address = address
        self._prefix = prefix
        self._id = prefix + suffix
        self._group: Any = None
        self._sequence = 0
        super().__init__(
            {**config, "transactional.id": self._id}, place=address.place, timeout=timeout
        )

    def begin(self) -> None:
        """End the producer that had this id before; raises BackendUnavailable."""
        with mapped(self._failure):
            self.producer.init_transactions(self.timeout)

    def begin_transaction(self) -> None:
        """Begin a transaction; raises BackendUnavailable."""
        with mapped(self._failure):
            self.producer.begin_transaction()

    def commit(self, position: Position) -> None:
        """Commit the transaction with a position; an empty one is left out.

        Raises:
            BackendUnavailable: Whether it is committed is not known, unless a producer with the
                same id has begun.
        """
        with mapped(self._failure):
            if position and (last := self.last_stored) is not None:
                self._sequence += 1
                offset = client_class("TopicPartition")(
                    last.topic(),
                    last.partition(),
                    last.offset() + 1,
                    encode(self._sequence, position),
                )
                self.producer.send_offsets_to_transaction(
                    [offset], self._group_metadata(), self.timeout
                )
            self.producer.commit_transaction(self.timeout)

    def abort(self) -> None:
        """Abort the transaction; raises BackendUnavailable."""
        with mapped(self._failure):
            self.producer.abort_transaction(self.timeout)

    def close(self) -> None:
        """Disconnect; a transaction that is open is aborted, if the broker answers.

        The producer's own `close` would wait for that without a limit.
        """
        with suppress(Exception):
            self.producer.abort_transaction(PURGE_SECONDS)
        with suppress(Exception):
            self.producer.purge()
        producers, self.producer = [self.producer], None
        with suppress(TimeoutError):
            bounded(producers.clear, CLOSE_SECONDS, "kafka-close")

    def read_position(self) -> Position:
        """Return the last committed position of this id; empty if there is none.

        Called after `begin`: then no transaction of an earlier producer is open.

        Raises:
            BackendUnavailable: The broker does not answer, or the offset is not a position.
        """
        texts = self._committed_texts()
        try:
            found = [decode(text) for text in texts]
        except ValueError as error:
            raise unavailable(
                f"{self._place}: the offset of group {self._id!r} is not a position ({error}); "
                "delete the group to send its last events again"
            ) from error
        self._sequence, position = max(found, key=lambda each: each[0], default=(0, {}))
        return position

    def _committed_texts(self) -> Sequence[str]:
        """Return the metadata of the group's offsets once no transaction is being completed."""
        with mapped(self._failure):
            return bounded(self._ask_for_texts, self.timeout + CLOSE_SECONDS, "kafka-position")

    def _ask_for_texts(self) -> Sequence[str]:
        admin = client_module(CLIENT, "confluent_kafka", "confluent_kafka.admin")
        group = client_module(CLIENT).ConsumerGroupTopicPartitions(self._id)
        deadline = time.monotonic() + self.timeout
        with mapped(self._failure):
            client = admin.AdminClient(self._address.settings({}))
        while True:
            with mapped(self._failure):
                left = max(PURGE_SECONDS, deadline - time.monotonic())
                (answer,) = client.list_consumer_group_offsets(
                    [group], require_stable=True, request_timeout=left
                ).values()
                try:
                    offsets = answer.result(left).topic_partitions
                    errors = [each.error for each in offsets if each.error is not None]
                except self._error as error:
                    errors = [error.args[0]]
                if not errors:
                    return [each.metadata for each in offsets if each.metadata]
                if errors[0].name() not in COORDINATOR_MOVES or time.monotonic() > deadline:
                    raise self._error(errors[0])
            time.sleep(UNSTABLE_PAUSE)

    def _group_metadata(self) -> Any:
        """Return what names the group to the producer; only a consumer can make it."""
        if self._group is None:
            self._group = bounded(self._ask_for_group, CLOSE_SECONDS, "kafka-group")
        return self._group

    def _ask_for_group(self) -> Any:
        settings = {**self._address.settings({}), "group.id": self._id}
        consumer = client_class("Consumer")(settings)
        try:
            return consumer.consumer_group_metadata()
        finally:
            consumer.close()

    def _failure(self, error: Exception) -> BackendUnavailable:
        cause = error.args[0] if error.args else error
        name = cause.name() if hasattr(cause, "name") else ""
        hint = _HINTS.get(name, "").format(prefix=self._prefix)
        where = f" for transactional id {self._id!r}"
        failure = self.unavailable(cause, f"{where}{f' ({hint})' if hint else ''}")
        failure.reason = f"Kafka answered {name}" if name else ""
        return failure


@dataclass(frozen=True, slots=True)
class TransactionSender(Sender):
    """Sends the records of a batch in one transaction, or in several if some are refused.

    `unsettled` are rows that were delivered before and belong to each position. It grows by those
    of the batch. The relay keeps a batch so small that a position has room for both.
    """

    connection: TransactionalConnection
    unsettled: dict[int, int] = field(default_factory=dict)

    def deliver(self, records: Sequence[Record]) -> BackendUnavailable | None:
        """Send records in a transaction; return the error after which nothing may be sent.

        It is the outcome of everything here that is not known to be committed.
        """
        batch, connection = self.batch, self.connection
        records = [each for each in records if not batch.hold_after_failure(each.place)]
        if not records:
            return None
        try:
            reports = self._send(records)
            if connection.is_late:
                unknown = (each for each in records if each.place not in reports)
                raise self.lost(next(unknown, records[0]).topic)
            stored = [each for each in records if reports.get(each.place, True) is None]
            if stored and _is_complete(reports):
                connection.commit(self._position(stored))
            else:
                connection.abort()
                return self._send_again(records, reports)
        except BackendUnavailable as error:
            batch.give_up((record.place for record in records), error)
            return error
        for record in stored:
            batch.acknowledge(record.place)
        for record in records:
            if report := reports.get(record.place):
                batch.fail(record.place, self.failure(report.error, record.topic))
            elif record.place not in reports:
                batch.hold(record.place)
        return None

    def _send(self, records: Sequence[Record]) -> Reports:
        """Send records in a new transaction.

        After an aborted transaction, librdkafka may purge the first records of the next one, too.
        """
        for _ in range(PURGED):
            self.connection.begin_transaction()
            reports = self.send(records)
            failed = {each.error.name() for each in reports.values() if each is not None}
            if self.connection.is_late or failed != {"_PURGE_QUEUE"}:
                break
            self.connection.abort()
        return reports

    def _position(self, records: Sequence[Record]) -> Position:
        messages = (self.batch.messages[record.place] for record in records)
        rows = {message.row: mark_of(message.event_id) for message in messages if message.row}
        self.unsettled.update(rows)
        return self.unsettled

    def _send_again(self, records: Sequence[Record], reports: Reports) -> BackendUnavailable | None:
        """Send records again, after a transaction with some of them was aborted.

        What is refused for a reason of its own fails. To find the cause in a record batch that was
        refused for what is in it, the records are divided.
        """
        batch = self.batch
        refused: dict[int, DeliveryError] = {}
        stop: BackendUnavailable | None = None
        for record in records:
            if report := reports.get(record.place):
                failure = self.failure(report.error, record.topic)
                if isinstance(failure, BackendUnavailable):
                    stop = stop or failure
                else:
                    refused[record.place] = failure
        if not refused:
            stop = stop or self.lost(records[0].topic)
            batch.give_up((record.place for record in records), stop)
            return stop
        alone = refused if len(records) == 1 else _of_one_event(refused, reports)
        for place, failure in alone.items():
            batch.fail(place, failure)
        rest = [record for record in records if record.place not in alone]
        parts = [rest] if alone else [rest[: len(rest) // 2], rest[len(rest) // 2 :]]
        stop = None
        for part in parts:
            if stop is None:
                stop = self.deliver(part)
            else:
                batch.give_up((record.place for record in part), stop)
        return stop


def _is_complete(reports: Reports) -> bool:
    """Return True if nothing failed that had been handed to librdkafka."""
    failed = (each for each in reports.values() if each is not None)
    return all(each.partition is None and is_about_records(each.error) for each in failed)


def _of_one_event(
    refused: Mapping[int, DeliveryError], reports: Reports
) -> dict[int, DeliveryError]:
    """Return the failures that are not about a whole record batch."""
    return {
        place: failure
        for place, failure in refused.items()
        if (report := reports[place]) is not None
        and (report.partition is None or not is_about_records(report.error))
    }
