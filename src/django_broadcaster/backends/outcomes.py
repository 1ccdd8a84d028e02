"""The outcomes of the messages of one batch, kept by the rules of `send_batch`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from django_broadcaster.exceptions import BackendUnavailable, DeliveryError, Held

from .base import Message, Outcome


class Batch:
    """Messages and their outcomes: None once the broker holds a message, else its error.

    Until a backend notes the outcome of a message, it counts as not delivered. `blocked` are the
    keys of which an event failed: nothing further of them may be sent.
    """

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = messages
        self._unknown = BackendUnavailable("the backend has noted no outcome of the event")
        self.outcomes: list[Outcome] = [self._unknown] * len(messages)
        self.blocked: set[str] = set()

    def landed(self, index: int) -> None:
        """Note that the broker holds a message."""
        self.outcomes[index] = None

    def fail(self, index: int, failure: DeliveryError) -> None:
        """Note that a message failed, or is held if an earlier one of its key did."""
        key = self.messages[index].partition_key
        if key in self.blocked:
            self.hold(index)
            return
        self.outcomes[index] = failure
        if key:
            self.blocked.add(key)

    def hold(self, index: int) -> None:
        """Note that a message was not sent, because an earlier one of its key failed."""
        self.outcomes[index] = Held("an earlier event of its key failed in this batch")

    def give_up(self, indexes: Iterable[int], error: BackendUnavailable) -> None:
        """Note an error for those of these that have not failed for a reason of their own."""
        for index in indexes:
            if self.outcomes[index] in (None, self._unknown):
                self.outcomes[index] = error
