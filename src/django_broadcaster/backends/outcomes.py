"""The outcomes of the messages of one batch, kept by the rules of `send_batch`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from django_broadcaster.exceptions import BackendUnavailable, DeliveryError, Held

from .base import Message, Outcome


class MessageBatch:
    """Messages and their outcomes: None once the broker holds a message, else its error.

    Until a backend notes the outcome of a message, it counts as not delivered. Nothing further may
    be sent of `failed_keys`, the keys of which a message failed.
    """

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = messages
        self._unknown = BackendUnavailable("the backend has noted no outcome of the event")
        self.outcomes: list[Outcome] = [self._unknown] * len(messages)
        self.failed_keys: set[str] = set()

    def acknowledge(self, index: int) -> None:
        """Note that the broker has acknowledged a message."""
        self.outcomes[index] = None

    def fail(self, index: int, failure: DeliveryError) -> None:
        """Note that a message failed, or is held if an earlier one of its key did."""
        if not self.hold_after_failure(index):
            self.outcomes[index] = failure
            if key := self.messages[index].partition_key:
                self.failed_keys.add(key)

    def hold_after_failure(self, index: int) -> bool:
        """Hold a message if an earlier one of its key failed; return True if so."""
        if self.messages[index].partition_key not in self.failed_keys:
            return False
        self.hold(index)
        return True

    def hold(self, index: int) -> None:
        """Note that a message was not sent, because an earlier one of its key failed."""
        self.outcomes[index] = Held()

    def give_up(self, indexes: Iterable[int], error: BackendUnavailable) -> None:
        """Note an error for those of these that have not failed for a reason of their own."""
        for index in indexes:
            if self.outcomes[index] in (None, self._unknown):
                self.outcomes[index] = error
