"""The work of one consumer: receive a batch, write it, acknowledge it.

The receiver's thread owns the consumer, and a second thread owns the database's connection. While a
full batch is being written, the next one is received, and its rows are made. At most two batches
are in memory, and fewer messages are received at once if they exceed OUTBOX_BATCH_BYTES.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from django.conf import settings
from django.db import Error

from django_broadcaster.backoff import Backoff
from django_broadcaster.conf import conf
from django_broadcaster.consumers.base import Consumer, Delivery
from django_broadcaster.consumers.handler import consumers
from django_broadcaster.consumers.positions import Source
from django_broadcaster.consumers.rows import Entry, Writer, Written
from django_broadcaster.exceptions import LeaseLost
from django_broadcaster.publishing.columns import in_local_time
from django_broadcaster.relay.health import Activity
from django_broadcaster.relay.outage import DatabaseOutage
from django_broadcaster.relay.separate_thread import Call, SeparateThread
from django_broadcaster.signals import messages_received
from django_broadcaster.store import NewRow

from .lease import ReceiverLease
from .positions import Positions, SourcesLost

RECEIVE_SECONDS: Final = 1.0
"""The longest wait for a message; a receiver that is stopped notices it after that time."""

STAND_BY_SECONDS: Final = 1.0
"""Seconds between two attempts to become the receiver that reads."""

FIRST_LIMIT: Final = 100
"""The most messages of the first batch, when their size is not known yet."""

EXTEND_SECONDS: Final = 2.0
"""Seconds of waiting for the database, after which the broker is asked for more time."""

LAG_SECONDS: Final = 5.0
"""Seconds between two questions about the lag."""

RATE_SECONDS: Final = 60.0
"""The time over which the rate is measured."""


class _Batch(NamedTuple):
    """A batch that is committed, without messages of sources that other receivers have."""

    deliveries: Sequence[Delivery]
    written: Written
    seconds: float = 0.0


class _Writing(NamedTuple):
    """A batch that is being written."""

    deliveries: Sequence[Delivery]
    began: float
    call: Call[_Batch]


class Receiver:
    """Receives for one consumer. `turn` is called by one thread, `figures` and `renew` by any.

    Args:
        using: The alias of the outbox's database.
        alias: The alias of the consumer.
        limit: The most messages of a batch.
        outage: The log of the database's outages.
    """

    def __init__(self, using: str, alias: str, *, limit: int, outage: DatabaseOutage) -> None:
        self.alias = alias
        self.activity = Activity()
        self.consumer: Consumer = consumers.create(alias)
        self._reads_alone = self.consumer.ordered and not self.consumer.shares_by_key
        self.lease = ReceiverLease(using, alias, reads_alone=self._reads_alone)
        self.stopping = threading.Event()
        self.is_reading = False
        """Whether the receiver may read, and has opened its consumer."""
        self.makes_progress = False
        """Whether the last turn has acknowledged a batch, or has found nothing to write."""
        self._writer = Writer(using, alias, consumers.delivers_to(alias))
        self._positions = Positions(using, alias)
        self.consumer.take_sources = self._take_sources
        self._asks_the_database = True
        self._most = limit
        self._limit = min(limit, FIRST_LIMIT)
        self._outage = outage
        self._runner = SeparateThread(f"receiver-{alias}-database")
        self._writing: _Writing | None = None
        self._is_full = False
        self._backoff = Backoff()
        self._lag = _Lag()
        self._asks_at = 0.0
        self._stands_by_since: float | None = None
        self._received: deque[tuple[float, int]] = deque()

    def turn(self) -> bool:
        """Receive once; return False if nothing was there to be done. Raises LeaseLost."""
        self.makes_progress = False
        if self.is_reading:
            self._check_lease()
        if not self.is_reading and not self._begin():
            return False
        deliveries = self._receive()
        entries = self._entries(deliveries)
        was_writing = self._writing is not None
        written = self._end_writing(deliveries)
        if deliveries:
            call = self._runner.begin(self._insert, deliveries, entries)
            self._writing = _Writing(deliveries, time.monotonic(), call)
        if written is not None:
            self._conclude(written)
        if not self._is_full:
            self._finish()
        self._ask_lag()
        self.makes_progress = was_writing or self._writing is None
        return bool(deliveries)

    @property
    def may_take_over(self) -> bool:
        """Whether this receiver has been standing by for less than a lease.

        The one that reads may have crashed, which shows when its lease expires.
        """
        since = self._stands_by_since
        return (
            since is not None and time.monotonic() - since <= self.lease.seconds + STAND_BY_SECONDS
        )

    def finish(self) -> None:
        """Acknowledge what is being written, as the receiver stops."""
        self._finish()

    def close(self) -> None:
        """Return what is not acknowledged to the broker, and disconnect; raises what a client does.

        A batch that is being written stays in the queue of its thread, before any later one.
        """
        self._writing = None
        self.is_reading = False
        self.consumer.close()

    def leave(self) -> None:
        """Release the lease; raises the database's errors."""
        self._runner.run(self.lease.leave)

    def end(self) -> None:
        """End the database's thread."""
        self._runner.end()

    # --- One turn ----------------------------------------------------------------------------

    def _begin(self) -> bool:
        """Join, take the right to read, and open the consumer; return False to stand by."""
        if self.lease.seconds_left <= 0:
            self.activity.begin("joining")
            self._runner.run(self.lease.leave)
            self._runner.run(self.lease.join)
            self._asks_the_database = self._runner.run(self._writer.asks_the_database)
        if self._reads_alone and not self._runner.run(self.lease.may_read):
            self.activity.begin("standing by", pause=STAND_BY_SECONDS)
            self._stands_by_since = self._stands_by_since or time.monotonic()
            self.stopping.wait(STAND_BY_SECONDS)
            return False
        self._stands_by_since = None
        self.activity.begin("connecting")
        self.consumer.open()
        self.is_reading = True
        return True

    def _check_lease(self) -> None:
        """Raise LeaseLost if another receiver has taken over: it would miss what is read here.

        The heartbeat finds out, unless the whole process was suspended.
        """
        if self.lease.is_lost:
            raise self.lease.error()
        if self.lease.seconds_left <= 0:
            self._finish()
        if self.lease.seconds_left <= 0:
            self.activity.begin("renewing the lease")
            self._runner.run(self.lease.renew, {})

    def _receive(self) -> list[Delivery]:
        seconds = RECEIVE_SECONDS if self._writing is None else 0.0
        self.activity.begin("waiting for messages", pause=seconds)
        deliveries = self.consumer.receive(self._limit, seconds)
        self.activity.begin("writing")
        self._is_full = len(deliveries) >= self._limit
        if deliveries:
            self._limit = self._next_limit(deliveries)
        return deliveries

    def _next_limit(self, deliveries: Sequence[Delivery]) -> int:
        """Return the limit of the next batch: fewer messages if these were large, else more."""
        size = sum(len(each.message.body) for each in deliveries)
        if size > conf.BATCH_BYTES:
            return max(1, len(deliveries) * conf.BATCH_BYTES // size)
        if 2 * size > conf.BATCH_BYTES or not self._is_full:
            return self._limit
        return min(self._most, 2 * self._limit)

    def _entries(self, deliveries: Sequence[Delivery]) -> Sequence[Entry] | None:
        """Make the rows here, while the database is busy; None if it has to be asked for that."""
        if self._asks_the_database or not deliveries:
            return None
        return self._writer.entries(deliveries)

    def _insert(
        self, deliveries: Sequence[Delivery], entries: Sequence[Entry] | None = None
    ) -> _Batch:
        """Write a batch; return it without the messages of sources that were lost."""
        if entries is None:
            entries = self._writer.entries(deliveries)
        while True:
            ends = self._ends(deliveries)
            within = _Within(self.lease, self._positions, ends) if ends else self.lease
            try:
                return _Batch(deliveries, self._writer.write(entries, len(deliveries), within))
            except SourcesLost as error:
                deliveries = self._without(deliveries, error)
            kept = set(map(id, deliveries))
            entries = [entry for entry in entries if id(entry.delivery) in kept]

    def _ends(self, deliveries: Sequence[Delivery]) -> Mapping[Source, int]:
        """Return the position after the last message of each source that the database keeps."""
        positions = map(self.consumer.position_of, deliveries)
        return {each.source: each.after for each in positions if each is not None}

    def _without(self, deliveries: Sequence[Delivery], error: SourcesLost) -> list[Delivery]:
        """Return the deliveries of the other sources: who took these receives theirs again.

        Raises:
            LeaseLost: The broker did not say that they were given to others: join again.
        """
        if any(each.is_held for each in error.sources):
            raise LeaseLost(str(error)) from error

        def is_kept(delivery: Delivery) -> bool:
            position = self.consumer.position_of(delivery)
            return position is None or position.source not in error.sources

        return [each for each in deliveries if is_kept(each)]

    def _take_sources(self, names: Collection[str]) -> Sequence[Source]:
        return self._runner.run(self._positions.take, names, self.lease.begin)

    def _finish(self) -> None:
        """Wait until the batch is written, and acknowledge it; raises LeaseLost."""
        written = self._end_writing()
        if written is not None:
            self._conclude(written)

    def _end_writing(self, later: Sequence[Delivery] = ()) -> _Batch | None:
        """Wait until the batch that is being written is committed, and return it; None without one.

        While the database is unavailable, the batch is kept and written again, until the receiver
        is stopped. `later` has the deliveries that are to be written next. Raises LeaseLost.
        """
        if self._writing is None:
            return None
        deliveries, began, call = self._writing
        held = [*deliveries, *later]
        batch: _Batch | None = None
        while batch is None:
            try:
                batch = self._wait(held, call)
            except Error as error:
                pause = self._backoff.next()
                self.activity.begin("waiting for the database", pause=pause + EXTEND_SECONDS)
                self._outage.note(threading.current_thread().name, error, pause)
                self.stopping.wait(pause)
                if self.stopping.is_set():
                    raise
                self.consumer.extend(held)
                call = self._runner.begin(self._insert, deliveries)
        self._writing = None
        self._backoff.reset()
        self._outage.end(threading.current_thread().name)
        return batch._replace(seconds=time.monotonic() - began)

    def _wait(self, held: Sequence[Delivery], call: Call[_Batch]) -> _Batch:
        while not call.wait(EXTEND_SECONDS):
            self.consumer.extend(held)
        return call.result()

    def _conclude(self, batch: _Batch) -> None:
        """Acknowledge a batch that is committed, while the database is busy with the next one."""
        self.activity.begin("acknowledging")
        cut = set(map(id, batch.written.cut))
        self.consumer.acknowledge([each for each in batch.deliveries if id(each) not in cut])
        for delivery in batch.written.cut:
            self.consumer.reject(delivery)
        self._note(batch.written, batch.seconds)

    # --- Figures -----------------------------------------------------------------------------

    def _note(self, written: Written, seconds: float) -> None:
        self._received.append((time.monotonic(), written.received))
        self._lag.received()
        messages_received.send_robust(
            sender=Receiver, consumer=self.alias, written=written, seconds=seconds
        )

    def _ask_lag(self) -> None:
        now = time.monotonic()
        if now < self._asks_at:
            return
        self._asks_at = now + LAG_SECONDS
        self.activity.begin("asking for the lag")
        self._lag.asked(self.consumer.lag())

    @property
    def lag(self) -> int | None:
        """The messages that waited at the broker when it was last asked; None if it can't say."""
        return self._lag.value

    @property
    def lag_grows_since(self) -> datetime | None:
        """Since when nothing has been received while the lag grew; None if that is not so."""
        return self._lag.grows_since

    @property
    def rate(self) -> float:
        """Messages per second over the last minute."""
        since = time.monotonic() - RATE_SECONDS
        while self._received and self._received[0][0] < since:
            self._received.popleft()
        return sum(number for _, number in list(self._received)) / RATE_SECONDS


class _Within(NamedTuple):
    """The statements of the lease and of the positions, in the transaction of a batch."""

    lease: ReceiverLease
    positions: Positions
    ends: Mapping[Source, int]

    def begin(self) -> None:
        """Move the positions first; raises SourcesLost."""
        self.lease.begin()
        self.positions.move(self.ends)

    def end(self, written: Written) -> None:
        """Add the batch to the receiver's figures; raises LeaseLost."""
        self.lease.end(written)

    def insert(self, rows: Sequence[NewRow], received: int) -> int | None:
        """Return None: the positions are moved by statements of their own."""
        return None


class _Lag:
    """The lag, and whether it grows while nothing is received."""

    def __init__(self) -> None:
        self.value: int | None = None
        self.grows_since: datetime | None = None

    def received(self) -> None:
        """Note that messages were received."""
        self.grows_since = None

    def asked(self, value: int | None) -> None:
        """Note the broker's answer."""
        before, self.value = self.value, value
        if not value or before is None:
            self.grows_since = None
        elif value > before and self.grows_since is None:
            self.grows_since = now_in_database()


def now_in_database() -> datetime:
    """Return this moment as the database takes it."""
    moment = datetime.now(UTC)
    return moment if settings.USE_TZ else in_local_time(moment)
