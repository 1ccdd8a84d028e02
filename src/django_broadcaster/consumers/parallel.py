"""Threads in which a backend runs code of the project, each with its own database connections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TypeVar

from django_broadcaster.backends.base import MessageBackend, Thread

T = TypeVar("T")


class Parallel:
    """Runs calls of a backend at once: the first in the caller's thread, each other in its own.

    The threads are started when they are needed, and stay.
    """

    def __init__(self, backend: MessageBackend) -> None:
        self._backend = backend
        self._threads: list[Thread] = []

    def most(self, wanted: int) -> int:
        """Return how many calls run at once: 1 where a relay has no threads for a backend."""
        return wanted if self._backend.new_thread else 1

    def run(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Run calls, as many as `most` returned, and return their results.

        If one of them raises an error, it is raised once all have ended.
        """
        first, *others = calls
        new_thread = self._backend.new_thread
        while new_thread and len(self._threads) < len(others):
            number = len(self._threads) + 1
            self._threads.append(new_thread(f"relay-{self._backend.alias}-handlers-{number}"))
        results: list[T] = []
        with ExitStack() as waits:
            for thread, call in zip(self._threads, others, strict=False):
                wait = thread.begin(call).result
                waits.callback(lambda wait=wait: results.append(wait()))  # type: ignore[misc]
            results.append(first())
        return results

    def end(self) -> None:
        """End the threads."""
        threads, self._threads = self._threads, []
        for thread in threads:
            thread.end()
