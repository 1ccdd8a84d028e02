"""Keeps what it is given in the memory of this process, for tests."""

from __future__ import annotations

from threading import Lock
from typing import Any

from django_broadcaster.exceptions import Rejected

from .base import Message, MessageBackend

# By alias, for the whole process: a relay has backends of its own, and tests look from outside.
# None is for all of them.
_outboxes: dict[str | None, list[Message]] = {}
_lock = Lock()


def outbox(alias: str | None = None) -> list[Message]:
    """Return the messages delivered to this alias, in order: the list itself, which goes on.

    Without an alias they are the messages to all aliases.
    """
    with _lock:
        return _outboxes.setdefault(alias, [])


def clear() -> None:
    """Empty the lists."""
    with _lock:
        for messages in _outboxes.values():
            messages.clear()


class LocMemBackend(MessageBackend):
    """Appends every message to `messages`, the list that `outbox(alias)` returns too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.messages = outbox(self.alias)

    def send(self, message: Message) -> None:
        """Keep one message; raises Rejected for one over `max_message_bytes`, where that is set."""
        size = len(message.to_json())
        if self.max_message_bytes and size > self.max_message_bytes:
            raise Rejected(f"the event takes {size} bytes, over {self.max_message_bytes}")
        with _lock:
            self.messages.append(message)
            _outboxes.setdefault(None, []).append(message)
