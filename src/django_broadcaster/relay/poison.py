"""Poison messages: events that crash the relays which deliver them.

A suspect is an event that was in flight when its relay crashed. It is retried alone, which shows
whether it was the cause. After OUTBOX_MAX_CRASHES crashes it becomes a dead letter.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from django_broadcaster.conf import conf
from django_broadcaster.exceptions import Rejected
from django_broadcaster.store import PendingRow

PATIENCE_SECONDS = 10.0
"""How long a suspect may keep those of other backends waiting. One that hangs does it once."""

_turn = threading.RLock()
_began: list[float] = []
"""When the suspect whose turn it is began."""


def is_poison(row: PendingRow) -> bool:
    """Return True if relays crashed too often while they delivered the event."""
    return row.crash_count >= int(conf.MAX_CRASHES)


def crash_error(row: PendingRow) -> Rejected:
    """Return the error of a poison message, which its row keeps as the last one."""
    error = Rejected(f"The relay crashed {row.crash_count} times while delivering this event.")
    error.reason = f"the relay crashed {row.crash_count} times"
    return error


@contextmanager
def alone(is_suspect: bool = True) -> Iterator[None]:
    """Wait until no other suspect is in flight in this process; do nothing for other events.

    A crash counts for everything that was in flight in the process, whatever its backend. If two
    suspects were, and one of them crashes each process, the other would be given up with it.
    """
    if not is_suspect:
        yield
        return
    now = time.monotonic()
    left = PATIENCE_SECONDS - (now - next(iter(_began), now))
    has_turn = _turn.acquire(timeout=max(0.0, left))
    if has_turn:
        _began.append(time.monotonic())
    try:
        yield
    finally:
        if has_turn:
            _began.pop()
            _turn.release()
