"""Suspects: events that were in flight when their relay died, and that are tried again alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE_SECONDS = 10.0
"""How long a suspect waits for one of another backend, which may hang."""

_on_its_way = threading.RLock()


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other suspect is on its way in this process, then let this one go.

    A death is laid to everything that was in flight in the process, whatever its backend. If two
    suspects were, and one of them kills each process, the other would be given up with it.
    """
    waited = _on_its_way.acquire(timeout=PATIENCE_SECONDS)
    try:
        yield
    finally:
        if waited:
            _on_its_way.release()
