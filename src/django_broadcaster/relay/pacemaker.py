"""One thread for all backends of a worker: sends their heartbeats, and passes wake-ups on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from django_broadcaster.backoff import Backoff
from django_broadcaster.conf import conf

from .backend_thread import BackendThread
from .db_connections import drop_all_connections, drop_connection, use_own_connections
from .health import Activity
from .lease import HEARTBEATS_PER_LEASE
from .listener import Listener
from .log_safety import class_names, explains_itself, loggable, loggable_traceback

logger = logging.getLogger("django_broadcaster.relay")

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
        self.has_died = False
        """Whether it ended by what it could not live through."""
        self._listener = Listener(using)
        self._next_beat = 0.0
        self.activity = Activity()
        # No longer than between two beats: it must not be the pause that costs the lease.
        self._backoff = Backoff(conf.LEASE_SECONDS / HEARTBEATS_PER_LEASE)

    def run(self) -> None:
        """Beat and listen; whatever goes wrong is logged and tried again."""
        try:
            use_own_connections()
            while not self._ended.is_set():
                self._go_on()
        except BaseException as error:
            self.has_died = True  # which the worker sees, and ends
            logger.critical(
                "the relay's pacemaker ends: %s",
                class_names(error),
                exc_info=loggable_traceback(error),
            )
        finally:
            drop_all_connections()

    def _go_on(self) -> None:
        self.activity.begin("beating", pause=SLICE_SECONDS)
        try:
            self._beat()
            self._listen()
        except BaseException as error:
            self._recover(error)
        else:
            self._backoff.reset()

    def end(self) -> None:
        """Stop beating; waits for the last beat to finish."""
        self._ended.set()
        self.join(2 * SLICE_SECONDS)

    def _recover(self, error: BaseException) -> None:
        """Pause, and begin with a new connection."""
        pause = self._backoff.next()
        self.activity.begin("recovering", pause=pause)
        foreseen = explains_itself(error)
        logger.log(
            logging.WARNING if foreseen else logging.ERROR,
            "the relay's pacemaker missed a beat, going on in %.1f s: %s",
            pause,
            loggable(error),
            exc_info=None if foreseen else loggable_traceback(error),
        )
        drop_connection(self._using)
        self._listener.reset()
        self._ended.wait(pause)

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
