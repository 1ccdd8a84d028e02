"""Handlers of the `HandlersBackend`: each event becomes an `Order`, but one ends its process."""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
from collections.abc import Callable

from django_broadcaster.events import CloudEvent
from django_broadcaster.registry import event_registry
from tests.app.models import Order

from .backends import POISON


def _crash() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # leaves no dump behind
    faulthandler._sigsegv()  # type: ignore[attr-defined]  # it is there for tests like this one


DEATHS: dict[str, Callable[[], None]] = {
    "exit": lambda: os._exit(13),
    "exit with 0": lambda: os._exit(0),
    "segfault": _crash,
    # What the kernel does to the process when the machine is out of memory.
    "out of memory": lambda: os.kill(os.getpid(), signal.SIGKILL),
}

death = "exit"
"""Which of them the handler of `POISON` dies; set by the backend."""


@event_registry.register("order.*")
def place(event: CloudEvent) -> None:
    """Write down that the event arrived."""
    subject = event.subject or ""
    if subject == POISON:
        DEATHS[death]()
    Order.objects.create(number=subject)
