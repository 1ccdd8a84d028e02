"""Suspects: events that were in flight when their relay died, and that are tried again alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE_SECONDS = 10.0
"""How long a suspect may keep those of other backends waiting. One that hangs does it once."""

_on_its_way = threading.RLock()
_began: list[float] = []
"""When the one that is on its way began."""


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other suspect is on its way in this process, then let this one go.

    A death is laid to everything that was in flight in the process, whatever its backend. If two
    suspects were, and one of them kills each process, the other would be given up with it.
    """
    now = time.monotonic()
    left = PATIENCE_SECONDS - (now - next(iter(_began), now))
    has_turn = _on_its_way.acquire(timeout=max(0.0, left))
    if has_turn:
        _began.append(time.monotonic())
    try:
        yield
    finally:
        if has_turn:
            _began.pop()
            _on_its_way.release()
