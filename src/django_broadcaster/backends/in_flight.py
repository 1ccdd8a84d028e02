"""Which messages of a batch may be sent now, and which were sent and have no answer yet.

For brokers that may refuse any message by itself and take the next one. The first messages of all
keys, and those without a key, may go at once. The next one of a key may go when the one before it
is acknowledged. So nothing of a key can be stored after a message that was refused.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from django_broadcaster.exceptions import BackendUnavailable, DeliveryError

from .base import Outcome
from .outcomes import Batch


class KeyOrder:
    """The messages of a batch, those of a key one after the other; indexes are those of the batch.

    `ready` are those that may be sent now; the sender takes out each one that it sends. `stop` is
    the error after which nothing more is sent. `on_progress` is called for each message that is
    acknowledged: a key may take long, answer by answer, and is not stalled.
    """

    def __init__(self, batch: Batch, on_progress: Callable[[], object]) -> None:
        self.ready: deque[int] = deque()
        self.stop: BackendUnavailable | None = None
        self._on_progress = on_progress
        self._batch = batch
        self._open = set(range(len(batch.messages)))  # without an outcome
        self._later: dict[str, deque[int]] = {}  # by key: they wait for the one before
        for index, message in enumerate(batch.messages):
            key = message.partition_key
            if key and key in self._later:
                self._later[key].append(index)
                continue
            self.ready.append(index)
            if key:
                self._later[key] = deque()

    @property
    def has_more(self) -> bool:
        """Whether a message can be sent now."""
        return self.stop is None and bool(self.ready)

    def settle(self, index: int, outcome: Outcome) -> None:
        """Note what became of a message; BackendUnavailable means that nothing more is sent."""
        if outcome is None:
            self.landed(index)
        elif isinstance(outcome, BackendUnavailable):
            self.stop = self.stop or outcome
        else:
            self.failed(index, outcome)

    def landed(self, index: int) -> None:
        """Note that a message is acknowledged: the next one of its key may go."""
        self._on_progress()
        self._open.discard(index)
        self._batch.landed(index)
        later = self._later.get(self._batch.messages[index].partition_key)
        if later:
            self.ready.append(later.popleft())

    def failed(self, index: int, failure: DeliveryError) -> None:
        """Note that a message failed: the others of its key are held."""
        self._open.discard(index)
        self._batch.fail(index, failure)
        for later in self._later.pop(self._batch.messages[index].partition_key, ()):
            self._open.discard(later)
            self._batch.hold(later)

    def again(self, indexes: Sequence[int]) -> None:
        """Note that messages were sent and have to be sent once more, before all others."""
        self.ready.extendleft(reversed(indexes))

    def finish(self) -> None:
        """Note that nothing more is sent: after `stop`, what has no outcome was not delivered."""
        if self.stop is not None:
            for index in self._open:
                self._batch.outcomes[index] = self.stop
            self._open.clear()
            self.ready.clear()


class Sized(Protocol):
    """A message ready to be sent."""

    @property
    def size(self) -> int:
        """The size in bytes."""


Packed = TypeVar("Packed", bound=Sized)


class InFlight(KeyOrder, Generic[Packed]):
    """The messages of a batch, and the window of those that have no answer yet.

    `sent` has by token, which is what the broker names in its answer, the index and the message. It
    is full at `max_bytes` or `max_messages`.
    """

    def __init__(
        self,
        batch: Batch,
        on_progress: Callable[[], object],
        *,
        max_bytes: int,
        max_messages: int = sys.maxsize,
    ) -> None:
        super().__init__(batch, on_progress)
        self.max_bytes, self.max_messages = max_bytes, max_messages
        self.sent: dict[int, tuple[int, Packed]] = {}
        self.bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether answers have to come before the next message is sent."""
        return self.bytes >= self.max_bytes or len(self.sent) >= self.max_messages

    @property
    def is_done(self) -> bool:
        """Whether nothing is sent, and nothing can be."""
        return not self.sent and (self.stop is not None or not self.ready)

    def add(self, token: int, index: int, packed: Packed) -> None:
        """Note that a message is being sent."""
        self.sent[token] = index, packed
        self.bytes += packed.size

    def pop(self, token: int) -> tuple[int, Packed] | None:
        """Return the message that an answer is about, or None if it has had its answer."""
        found = self.sent.pop(token, None)
        if found is not None:
            self.bytes -= found[1].size
        return found

    def lose(self) -> list[tuple[int, Packed]]:
        """Return all messages that have no answer, and will get none."""
        lost, self.sent, self.bytes = list(self.sent.values()), {}, 0
        return lost
