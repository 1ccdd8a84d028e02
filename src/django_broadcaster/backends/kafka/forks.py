"""Forks: a child process has its parent's producers, and not the threads that make them work."""

from __future__ import annotations

import ctypes
import os
from typing import Any, Protocol
from weakref import WeakSet


class Producing(Protocol):
    """Who has a producer of librdkafka's, which it can do without."""

    def give_up_producer(self) -> Any:
        """Forget the producer, and return it."""


_all: WeakSet[Producing] = WeakSet()


def begin_anew_in_child(owner: Producing) -> None:
    """Let a child process begin without the owner's producer, for as long as the owner lives."""
    _all.add(owner)


def _abandon() -> None:
    """Take all producers away.

    To end one here would wait for threads that are in the parent. So it gets a reference that
    nobody gives back, and is never ended.
    """
    for owner in _all:
        producer = owner.give_up_producer()
        if producer is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(producer))


os.register_at_fork(after_in_child=_abandon)
