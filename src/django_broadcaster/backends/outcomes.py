"""The outcomes of the messages of one batch, kept by the rules of `send_batch`."""

from __future__ import annotations

from collections.abc import Sequence

from django_broadcaster.exceptions import BackendUnavailable, DeliveryError, Held

from .base import Message, Outcome


class Batch:
    """Messages and their outcomes so far: None unless it failed.

    `blocked` are the keys of which an event failed: nothing further of them may be sent.
    """

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = messages
        self.outcomes: list[Outcome] = [None] * len(messages)
        self.blocked: set[str] = set()

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

    def give_up(self, start: int, error: BackendUnavailable) -> None:
        """Note an error for all from `start` on that have not failed for a reason of their own."""
        self.outcomes[start:] = [outcome or error for outcome in self.outcomes[start:]]
