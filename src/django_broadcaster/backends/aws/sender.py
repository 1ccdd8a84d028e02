"""How a batch of the relay becomes calls of ten messages, several of them in flight at once.

The service may refuse any entry of a call by itself, and store the next one. If
the destination keeps an order (FIFO), one event of each key is in flight at a time. A call has at
most one event of each key. The next one of a key leaves when the one before it is stored.

A destination that keeps no order gets all at once. Once an event of a key has failed, those that
have not left yet are held; one that left together with it may be stored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Executor, Future, wait
from typing import Final

from django_broadcaster.exceptions import BackendUnavailable, DeliveryError

from ..base import Message, Outcome, as_delivery_error
from ..in_flight import KeyOrder
from ..outcomes import MessageBatch
from .entries import Entry

CALL_ENTRIES: Final = 10
"""Messages in one call, the most."""


class NoOrder(KeyOrder):
    """The messages of a batch whose destination keeps no order: all may go at once."""

    def __init__(self, batch: MessageBatch, on_progress: Callable[[], object]) -> None:
        super().__init__(MessageBatch([]), on_progress)
        self.ready = deque(range(len(batch.messages)))
        self._batch = batch
        self._open = set(self.ready)
        self._first_failed: dict[str, int] = {}  # by key

    def _fail(self, index: int, failure: DeliveryError) -> None:
        # Whatever has become of others of its key.
        self._batch.outcomes[index] = failure
        if key := self._batch.messages[index].partition_key:
            self._first_failed[key] = min(index, self._first_failed.get(key, index))

    def hold_after_failure(self, index: int) -> bool:
        """Hold an unsent event if an earlier one of its key failed; return True if so."""
        key = self._batch.messages[index].partition_key
        if index <= self._first_failed.get(key, index):
            return False
        self._open.discard(index)
        self._batch.hold(index)
        return True


class Sender:
    """Sends one batch; `batch.outcomes` are complete when `run` returns.

    `write` returns a message as an entry or raises its DeliveryError. `send` makes one call and
    returns an outcome for each entry; it runs in the threads of `executor`, `width` at a time.
    """

    def __init__(
        self,
        batch: MessageBatch,
        *,
        ordered: bool,
        max_bytes: int,
        width: int,
        write: Callable[[int, Message], Entry],
        send: Callable[[Sequence[Entry]], Sequence[Outcome]],
        executor: Callable[[], Executor],
        on_progress: Callable[[], object],
    ) -> None:
        self._batch = batch
        self._order = (KeyOrder if ordered else NoOrder)(batch, on_progress)
        self._max_bytes, self._write, self._send = max_bytes, write, send
        self._executor = executor
        # In order, nothing that may go is held later: all of it is left to the threads at once.
        self._width = len(batch.messages) if ordered else width
        self._unsent = len(batch.messages)
        self._parts: dict[str, list[Entry]] = {}  # by destination: not yet enough for a call
        self._running: dict[Future[Sequence[Outcome]], Sequence[Entry]] = {}

    def run(self) -> None:
        """Send until all is delivered, failed, held, or the service is away."""
        try:
            self._turn_until_done()
        except BaseException:
            self._order.stop = BackendUnavailable("interrupted")  # for the calls that have not left
            raise
        self._order.finish()

    def _turn_until_done(self) -> None:
        while True:
            for entries in self._calls():
                self._begin(entries)
                while len(self._running) >= self._width:
                    self._wait()
            if not self._running and not self._order.has_more:
                break
            self._wait()

    def _calls(self) -> Iterator[Sequence[Entry]]:
        """Yield what goes in one call each: full ones first, then what is left."""
        while self._order.has_more:
            index = self._order.ready.popleft()
            self._unsent -= 1
            try:
                entry = self._write(index, self._batch.messages[index])
            except Exception as error:
                self._order.conclude(index, as_delivery_error(error))
                continue
            part = self._parts.setdefault(entry.destination, [])
            if part and sum(each.size for each in part) + entry.size > self._max_bytes:
                self._parts[entry.destination] = [entry]
                yield part
                continue
            part.append(entry)
            if len(part) == CALL_ENTRIES:
                del self._parts[entry.destination]
                yield part
        while self._parts and self._order.stop is None:
            yield self._parts.pop(next(iter(self._parts)))

    def _begin(self, entries: Sequence[Entry]) -> None:
        if isinstance(self._order, NoOrder):
            entries = [each for each in entries if not self._order.hold_after_failure(each.index)]
        if not entries:
            return
        if not (self._running or self._parts or self._order.ready):
            self._conclude(entries, self._deliver(entries))  # the only one: no thread is needed
            return
        self._running[self._executor().submit(self._deliver, entries)] = entries

    def _deliver(self, entries: Sequence[Entry]) -> Sequence[Outcome]:
        """Make a call, unless the service turned out to be away since it was begun."""
        if self._order.stop is not None:
            return [self._order.stop] * len(entries)
        outcomes = self._send(entries)
        for outcome in outcomes:
            if isinstance(outcome, BackendUnavailable):
                self._order.stop = outcome
        return outcomes

    def _wait(self) -> None:
        """Wait until a call has its answer. Each of them ends within the client's timeouts.

        When nothing is left to send, it is until all have: waking up takes time from the threads.
        """
        until = FIRST_COMPLETED if self._unsent else ALL_COMPLETED
        for done in wait(self._running, return_when=until).done:
            self._conclude(self._running.pop(done), done.result())

    def _conclude(self, entries: Sequence[Entry], outcomes: Sequence[Outcome]) -> None:
        for entry, outcome in zip(entries, outcomes, strict=True):
            self._order.conclude(entry.index, outcome)
