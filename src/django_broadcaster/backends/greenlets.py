"""Keeps backends with an event loop out of processes whose threads are greenlets."""

from __future__ import annotations

import sys

from django_broadcaster.exceptions import BackendConfigurationError

from .base import MessageBackend


def refuse_greenlets(backend: MessageBackend) -> None:
    """Raise BackendConfigurationError if the backend's event loop would be that of all threads.

    asyncio keeps the running loop by thread of the operating system, which all greenlets share.
    While one waits in a loop, Django raises SynchronousOnlyOperation at every query of the others.
    """
    library = _patched_by() if backend.uses_event_loop else ""
    if library:
        raise BackendConfigurationError(
            f"OUTBOX_PUBLISHERS[{backend.alias!r}]: {type(backend).__name__} runs an asyncio event "
            f"loop, which does not work where {library} has patched threads. Deliver its events in "
            f"a process without the patch: start outbox_worker with an interpreter that does not "
            f"import {library}'s monkey patch"
        )


def _patched_by() -> str:
    """Return the name of the library that has patched threads; empty if none has."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        return "gevent"
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return "eventlet"
    return ""
