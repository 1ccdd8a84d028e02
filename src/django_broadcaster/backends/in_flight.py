"""Which messages of a batch may be sent now, and which were sent and have no answer yet.

For brokers that may refuse any message by itself and take the next one. The first messages of all
keys, and those without a key, may go at once. The next one of a key may go when the one before it
is acknowledged. So nothing of a key can be stored after a message that was refused.

A sender takes indexes out of `ready` and sends these messages: it `add`s each with the token that
the broker names in its answer. For an answer it `pop`s the token, and `conclude`s the message with
its outcome, which makes the next one of the key ready. If the connection is lost, it `pop_all`s
what had no answer, and lets it be `send_again` or sets `stop`. It calls `finish` at the end.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from django_broadcaster.exceptions import BackendUnavailable, DeliveryError

from .base import Outcome
from .outcomes import MessageBatch


class KeyOrder:
    """The messages of a batch, those of a key one after the other; indexes are those of the batch.

    `ready` are those that may be sent now; the sender takes out each one that it sends. `stop` is
    the error after which nothing more is sent; a sender may set it. `on_progress` is called for
    each message that is acknowledged: a key may take long, answer by answer, and is not stalled.
    """

    def __init__(self, batch: MessageBatch, on_progress: Callable[[], object]) -> None:
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

    def conclude(self, index: int, outcome: Outcome) -> None:
        """Note the outcome of a message.

        None makes the next one of its key ready. BackendUnavailable sets `stop`. After any other
        error, the later ones of its key are held.
        """
        if isinstance(outcome, BackendUnavailable):
            self.stop = self.stop or outcome
            return
        self._open.discard(index)
        if outcome is None:
            self._on_progress()
            self._batch.acknowledge(index)
            if later := self._later.get(self._batch.messages[index].partition_key):
                self.ready.append(later.popleft())
        else:
            self._fail(index, outcome)

    def _fail(self, index: int, failure: DeliveryError) -> None:
        self._batch.fail(index, failure)
        for later in self._later.pop(self._batch.messages[index].partition_key, ()):
            self._open.discard(later)
            self._batch.hold(later)

    def send_again(self, indexes: Sequence[int]) -> None:
        """Make messages ready again, before all others; they were sent, and had no answer."""
        self.ready.extendleft(reversed(indexes))

    def finish(self) -> None:
        """End the batch: after `stop`, each message without an outcome gets that error."""
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

    `sent` has the index and the message of each, by its token. The window is full at `max_bytes` or
    `max_messages`.
    """

    def __init__(
        self,
        batch: MessageBatch,
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

    def pop_all(self) -> list[tuple[int, Packed]]:
        """Return all messages that have no answer: the connection that would bring it is lost."""
        lost, self.sent, self.bytes = list(self.sent.values()), {}, 0
        return lost
