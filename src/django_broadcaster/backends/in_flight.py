"""Whose turn it is in a batch: of each key one event is on its way at a time.

For a broker that may refuse any message by itself and take the next one. The first events of all
keys, and those without a key, may go at once. The next one of a key may go when the one before it
is acknowledged, so that nothing of a key can be stored behind an event that was refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from django_broadcaster.exceptions import BackendUnavailable, DeliveryError

from .outcomes import Batch


class Lines:
    """The events of a batch, each in the line of its key; indexes are those of the batch.

    `ready` are those that may be sent now: whoever sends one takes it out. `on_progress` is called
    for each that is acknowledged: a line may take long, answer by answer, and is no stall.
    """

    def __init__(self, batch: Batch, on_progress: Callable[[], object]) -> None:
        self.ready: deque[int] = deque()
        self._on_progress = on_progress
        self._batch = batch
        self._open = set(range(len(batch.messages)))  # without an outcome
        self._behind: dict[str, deque[int]] = {}  # by key: they wait for the one before
        for index, message in enumerate(batch.messages):
            key = message.partition_key
            if key and key in self._behind:
                self._behind[key].append(index)
                continue
            self.ready.append(index)
            if key:
                self._behind[key] = deque()

    def landed(self, index: int) -> None:
        """Note that an event is acknowledged: the next one of its key may go."""
        self._on_progress()
        self._open.discard(index)
        behind = self._behind.get(self._batch.messages[index].partition_key)
        if behind:
            self.ready.append(behind.popleft())

    def again(self, indexes: Sequence[int]) -> None:
        """Note that events were sent and have to be sent once more, before all others."""
        self.ready.extendleft(reversed(indexes))

    def failed(self, index: int, failure: DeliveryError) -> None:
        """Note that an event failed: the others of its key are held."""
        self._open.discard(index)
        self._batch.fail(index, failure)
        for later in self._behind.pop(self._batch.messages[index].partition_key, ()):
            self._open.discard(later)
            self._batch.hold(later)

    def give_up(self, error: BackendUnavailable) -> None:
        """Note that nothing more can be sent: what has no outcome was not delivered."""
        for index in self._open:
            self._batch.outcomes[index] = error
        self._open.clear()
        self.ready.clear()
