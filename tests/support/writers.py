"""Writers that publish under way, while a test does something to relays and servers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections

from .events import publish

PAUSE_SECONDS = 0.01


class Writers:
    """A thread for each key, which publishes `a1`, `a2`, ... of its key in a transaction each.

    `committed` are the names of all events that were published, in the order of each key.
    """

    def __init__(self, database: str, keys: str, **arguments: Any) -> None:
        self.committed: list[str] = []
        self._database = database
        self._arguments = arguments
        self._failures: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=[key]) for key in keys]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let them finish, and see that nothing went wrong."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a writer hangs"
        assert self._failures == []

    def _write(self, key: str) -> None:
        number = 0
        try:
            while not self._stop.wait(PAUSE_SECONDS):
                number += 1
                publish(f"{key}{number}", using=self._database, **self._arguments)
                self.committed.append(f"{key}{number}")
        except BaseException as error:
            self._failures.append(error)
        finally:
            connections.close_all()


@contextmanager
def writing(database: str, keys: str = "abcdefgh", **arguments: Any) -> Iterator[Writers]:
    """Let writers work for the time of the block; `arguments` are those of `publish`."""
    writers = Writers(database, keys, **arguments)
    try:
        yield writers
    finally:
        writers.stop()
