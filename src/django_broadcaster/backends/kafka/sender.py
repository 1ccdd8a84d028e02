"""How a batch goes to Kafka in waves, and how the cause of a refusal is found.

Kafka takes the records that come together for one partition, a *record batch*, as a whole or not
at all. A wave is small enough to be one record batch in each partition. A key has one topic in a
wave, and so one partition. The next wave waits for the answers. So no event can be stored while
an earlier one of its key, sent with it or before it, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django_broadcaster.exceptions import BackendUnavailable, DeliveryError

from ..base import Message, as_delivery_error
from ..outcomes import MessageBatch
from .connection import FRAMING_BYTES, Record, Reports
from .errors import is_about_records


@dataclass(frozen=True, slots=True)
class Planner:
    """Cuts a batch into waves of at most `max_bytes` and `max_count` records.

    `topics` has for each message its topic, or why it can't have one. `encode` returns the message
    as a record, or raises its DeliveryError.
    """

    batch: MessageBatch
    topics: Sequence[str | DeliveryError]
    encode: Callable[[int, Message, str], Record]
    max_bytes: int
    max_count: int

    def next_wave(self, waiting: Sequence[int]) -> tuple[list[Record], list[int]]:
        """Return what can be sent now, and the indexes of what waits for its answers.

        A message that cannot be sent gets its outcome here, once all before it of its key have
        theirs.
        """
        batch, encode, max_bytes, max_count = (
            self.batch,
            self.encode,
            self.max_bytes,
            self.max_count,
        )
        messages, topics = batch.messages, self.topics
        wave: list[Record] = []
        later: list[int] = []
        size = FRAMING_BYTES
        going: dict[str, str | DeliveryError] = {}  # the topic of a key in this wave
        passed: set[str] = set()  # keys of which an event waits
        for position, index in enumerate(waiting):
            message, topic = messages[index], topics[index]
            key = message.partition_key
            if batch.failed_keys and batch.hold_after_failure(index):
                continue
            if key and (key in passed or going.get(key, topic) != topic):
                passed.add(key)
                later.append(index)
                continue
            try:
                if not isinstance(topic, str):
                    raise topic
                record = encode(index, message, topic)
            except Exception as error:
                if key and key in going:
                    passed.add(key)
                    later.append(index)
                else:
                    batch.fail(index, as_delivery_error(error))
                continue
            if wave and (size + record.size > max_bytes or len(wave) == max_count):
                later.extend(waiting[position:])
                break
            wave.append(record)
            size += record.size
            if key:
                going[key] = topic
        return wave, later


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends records, and notes in the batch what became of each.

    `send` sends records together and waits. `failure` says what an error means for an event of a
    topic. `lost` is the failure of a record for a topic whose fate is not known.
    """

    batch: MessageBatch
    send: Callable[[Sequence[Record]], Reports]
    failure: Callable[[Any, str], DeliveryError]
    lost: Callable[[str], BackendUnavailable]

    def deliver(self, records: Sequence[Record]) -> BackendUnavailable | None:
        """Send records together; return the error after which nothing further may be sent.

        It is the outcome of everything here that is not known to be stored.
        """
        batch = self.batch
        if batch.failed_keys:
            records = [each for each in records if not batch.hold_after_failure(each.place)]
        reports = self.send(records) if records else {}
        if len(reports) == len(records) and not any(reports.values()):
            for record in records:
                batch.acknowledge(record.place)
            return None
        refused: dict[tuple[str, int], list[Record]] = {}
        stop: BackendUnavailable | None = None
        for record in records:
            if record.place not in reports:
                if not batch.hold_after_failure(record.place):
                    stop = stop or self.lost(record.topic)
                    batch.outcomes[record.place] = stop
                continue
            failure = reports[record.place]
            if failure is None:
                batch.acknowledge(record.place)
            elif failure.partition is not None and is_about_records(failure.error):
                refused.setdefault((record.topic, failure.partition), []).append(record)
            else:
                stop = self._fail(record, failure.error, stop)
        for group in refused.values():
            stop = self._divide(group, reports, stop)
        return stop

    def _fail(
        self, record: Record, error: Any, stop: BackendUnavailable | None
    ) -> BackendUnavailable | None:
        failure = self.failure(error, record.topic)
        if not isinstance(failure, BackendUnavailable):
            self.batch.fail(record.place, failure)
            return stop
        stop = stop or failure
        self.batch.outcomes[record.place] = stop
        return stop

    def _divide(
        self, group: Sequence[Record], reports: Reports, stop: BackendUnavailable | None
    ) -> BackendUnavailable | None:
        """Find the cause in a record batch that was refused for what is in it.

        Each half is sent again when the one before it has its answers.
        """
        known = reports[group[0].place]
        if stop is None and len(group) == 1 and known is not None:
            return self._fail(group[0], known.error, stop)
        half = len(group) // 2
        for part in (group[:half], group[half:]):
            if stop is None:
                stop = self.deliver(part)
            else:
                self.batch.give_up((record.place for record in part), stop)
        return stop
