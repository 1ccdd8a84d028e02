"""Keeps backends with an event loop out of processes whose threads are greenlets."""

from __future__ import annotations

import sys
from typing import ClassVar, Protocol

from django_broadcaster.exceptions import BackendConfigurationError
from django_broadcaster.registry import event_registry

from .base import MessageBackend


class MayRunLoop(Protocol):
    """A backend or a consumer."""

    alias: str
    uses_event_loop: ClassVar[bool]


def refuse_greenlets(backend: MayRunLoop) -> None:
    """Raise BackendConfigurationError if an event loop would be that of all threads.

    asyncio keeps the running loop by thread of the operating system, which all greenlets share.
    While one waits in a loop, Django raises SynchronousOnlyOperation at every query of the others.
    """
    library = _patched_by()
    runner = _runner_of_a_loop(backend) if library else ""
    if runner:
        raise BackendConfigurationError(
            f"{_setting_of(backend)}[{backend.alias!r}]: {runner} runs an asyncio event "
            f"loop, which does not work where {library} has patched threads. Deliver its events in "
            f"a process without the patch: start outbox_worker with an interpreter that does not "
            f"import {library}'s monkey patch"
        )


def _setting_of(backend: MayRunLoop) -> str:
    return "OUTBOX_PUBLISHERS" if isinstance(backend, MessageBackend) else "OUTBOX_CONSUMERS"


def _runner_of_a_loop(backend: MayRunLoop) -> str:
    """Return what runs an event loop, the backend or a handler that it runs; empty if none does."""
    if backend.uses_event_loop:
        return type(backend).__name__
    handlers = event_registry if getattr(backend, "runs_handlers", False) else ()
    return next((f"async handler {each.name!r}" for each in handlers if each.is_async), "")


def _patched_by() -> str:
    """Return the name of the library that has patched threads; empty if none has."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        return "gevent"
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return "eventlet"
    return ""
