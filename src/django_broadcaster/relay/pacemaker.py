"""One thread for all backends of a worker: sends their heartbeats, and passes wake-ups on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from django.db import DatabaseError, connections

from django_broadcaster.conf import conf

from .backend_thread import BackendThread
from .wakeup import Listener

logger = logging.getLogger("django_broadcaster.relay")

HEARTBEATS_PER_LEASE = 4
"""So a lease survives two heartbeats that are lost."""

SLICE_SECONDS = 0.5
"""The longest that it waits for wake-ups before it looks whether the worker has ended."""


class Pacemaker(threading.Thread):
    """Beats until `end`, however long the deliveries take.

    It has a connection of its own, so that a slow broker can't cost a relay its lease.
    """

    def __init__(self, using: str, threads: Sequence[BackendThread]) -> None:
        super().__init__(name="relay-pacemaker", daemon=True)
        self._using = using
        self._threads = threads
        self._ended = threading.Event()
        self._listener = Listener(using)
        self._next_beat = 0.0

    def run(self) -> None:
        """Beat and listen; trouble with the database is logged and tried again."""
        while not self._ended.is_set():
            try:
                self._beat()
                self._listen()
            except Exception as error:
                level = logging.WARNING if isinstance(error, DatabaseError) else logging.ERROR
                logger.log(level, "the relay's pacemaker missed a beat: %s", error, exc_info=True)
                connections[self._using].close()
                self._listener.reset()
                self._ended.wait(SLICE_SECONDS)
        connections.close_all()

    def end(self) -> None:
        """Stop beating; waits for the last beat to finish."""
        self._ended.set()
        self.join(2 * SLICE_SECONDS)

    def _beat(self) -> None:
        now = time.monotonic()
        if now >= self._next_beat:
            for thread in self._threads:
                thread.renew()
            self._next_beat = now + conf.LEASE_SECONDS / HEARTBEATS_PER_LEASE

    def _listen(self) -> None:
        left = max(0.0, self._next_beat - time.monotonic())
        heard = self._listener.wait(min(SLICE_SECONDS, left), self._ended)
        for thread in self._threads:
            if thread.alias in heard.shares:
                thread.look_at_share()
            elif thread.alias in heard.events:
                thread.wake()
