"""One thread for all backends of a worker: it sends their heartbeats and forwards wake-ups."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from django.db import Error

from django_broadcaster.backoff import Backoff
from django_broadcaster.conf import conf

from .backend_thread import BackendThread
from .db_connections import drop_all_connections, drop_connection, use_own_connections
from .health import Activity
from .lease import HEARTBEATS_PER_LEASE
from .listener import Listener
from .log_safety import class_names, loggable, loggable_traceback
from .outage import DatabaseOutage, Repeats

logger = logging.getLogger("django_broadcaster.relay")

SLICE_SECONDS = 0.5
"""The longest wait for wake-ups before the thread checks whether the worker has ended."""


class Beating(Protocol):
    """A thread whose lease needs heartbeats."""

    def renew(self) -> None:
        """Send a heartbeat; raises the database's errors."""


class Pacemaker(threading.Thread):
    """Sends heartbeats until `end`, however long the deliveries take.

    The thread has its own connection, so a relay does not lose its lease because of a slow broker.
    """

    def __init__(
        self,
        using: str,
        threads: Sequence[BackendThread],
        outage: DatabaseOutage,
        receivers: Sequence[Beating] = (),
    ) -> None:
        super().__init__(name="relay-pacemaker", daemon=True)
        self._using = using
        self._threads = threads
        self._receivers = receivers
        self._outage = outage
        self._unexpected = Repeats()
        self._ended = threading.Event()
        self.has_died = False
        """Whether the thread ended because of an error."""
        self._listener = Listener(using)
        self._next_beat = 0.0
        self.activity = Activity()
        # No longer than between two heartbeats, so that the pause does not cost the lease.
        self._backoff = Backoff(conf.LEASE_SECONDS / HEARTBEATS_PER_LEASE)

    def run(self) -> None:
        """Send heartbeats and listen; any error is logged, and the thread retries."""
        try:
            use_own_connections()
            while not self._ended.is_set():
                self._go_on()
        except BaseException as error:
            self.has_died = True  # which makes the worker stop
            logger.critical(
                "The heartbeat thread crashed: %s; stopping the relay.",
                class_names(error),
                exc_info=loggable_traceback(error),
            )
        finally:
            drop_all_connections()

    def _go_on(self) -> None:
        self.activity.begin("sending heartbeats", pause=SLICE_SECONDS)
        try:
            self._beat()
            self._listen()
        except BaseException as error:
            self._recover(error)
        else:
            self._backoff.reset()
            self._outage.end(self.name)
            self._unexpected.reset()

    def end(self) -> None:
        """Stop; waits for the last heartbeat."""
        self._ended.set()
        self.join(2 * SLICE_SECONDS)

    def _recover(self, error: BaseException) -> None:
        """Log an error, pause, and continue with a new connection."""
        pause = self._backoff.next()
        self.activity.begin("recovering", pause=pause)
        if isinstance(error, Error):
            self._outage.note(self.name, error, pause)
        elif self._unexpected.take_line(text := loggable(error)):
            logger.error(
                "Heartbeat failed: %s; retrying in %.1f s.",
                text,
                pause,
                exc_info=loggable_traceback(error),
            )
        drop_connection(self._using)
        self._listener.reset()
        self._ended.wait(pause)

    def _beat(self) -> None:
        now = time.monotonic()
        if now >= self._next_beat:
            for thread in (*self._threads, *self._receivers):
                thread.renew()
            self._next_beat = now + conf.LEASE_SECONDS / HEARTBEATS_PER_LEASE

    def _listen(self) -> None:
        left = max(0.0, self._next_beat - time.monotonic())
        heard = self._listener.wait(min(SLICE_SECONDS, left), self._ended)
        for thread in self._threads:
            thread.has_session = self._listener.is_proven
            if thread.alias in heard.shares:
                thread.rebalance_soon()
            elif thread.alias in heard.events:
                thread.wake()
        if heard.events:
            time.sleep(0)  # lets a woken thread run before this one listens again
