"""The relay as a process: one thread for each backend, a pacemaker for all, and a clean stop."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time

from django_broadcaster import __version__
from django_broadcaster.conf import conf
from django_broadcaster.idle_connections import return_to_pools
from django_broadcaster.signals import relay_started

from .backend_thread import BackendThread, WorkerOptions
from .db_connections import warn_of_small_pool
from .gc_tuning import seldom_collected
from .health import RelayState
from .outage import DatabaseOutage
from .pacemaker import Pacemaker
from .supervisor import is_orphaned

logger = logging.getLogger("django_broadcaster.relay")

RELEASE_SECONDS = 2.0
"""Seconds for releasing leases after the timeout: the database may hang."""


class Worker:
    """Delivers the events of several backends until it is stopped."""

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        outage = DatabaseOutage(options.database)
        self._threads = [BackendThread(options, alias, outage) for alias in options.backends]
        self._pacemaker = Pacemaker(options.database, self._threads, outage)
        self.failure = ""
        """Why the relay did not end as it should; empty if it did."""

    def stop(self) -> None:
        """Stop after the batches in flight; a signal handler or any thread may call this."""
        for thread in self._threads:
            thread.stop()

    @property
    def state(self) -> RelayState:
        """The state of the threads; any thread may read it."""
        loops = tuple(thread.state for thread in self._threads)
        pacemaker = self._pacemaker
        works = any(not loop.has_ended for loop in loops)
        return RelayState(
            process=os.getpid(),
            is_stopping=not works or all(thread.is_stopping for thread in self._threads),
            pacemaker_has_died=pacemaker.has_died,
            pacemaker_silence=pacemaker.activity.silence,
            loops=loops,
        )

    def run(self) -> bool:
        """Work until stopped or done; return True if everything ended without an error."""
        options = self._options
        relay_started.send_robust(
            sender=Worker, database=options.database, backends=options.backends
        )
        warn_of_small_pool(options.database, options.backends)
        return_to_pools()  # from here on this thread only waits
        logger.info(
            "Relay started: django-broadcaster %s, host %s, process %d, database %r, backends %s.",
            __version__,
            socket.gethostname(),
            os.getpid(),
            options.database,
            ", ".join(map(repr, options.backends)),
        )
        began = time.monotonic()
        with seldom_collected():
            self._run()
        logger.info(
            "Relay stopped after %.0f s: host %s, process %d%s.",
            time.monotonic() - began,
            socket.gethostname(),
            os.getpid(),
            f", {self.failure}" if self.failure else "",
        )
        return not self.failure

    def _run(self) -> None:
        for thread in (*self._threads, self._pacemaker):
            thread.start()
        for thread in self._threads:
            while thread.is_alive() and not thread.is_stopping:
                thread.join(1)  # in slices, so that signals are handled in between
                self._end_if_crippled()
                self._end_if_orphaned()
        if any(thread.is_alive() for thread in self._threads):
            logger.info(
                "Relay stopping: waiting up to %g s for running batches.", conf.SHUTDOWN_TIMEOUT
            )
        failures = self._join(conf.SHUTDOWN_TIMEOUT)
        self._pacemaker.end()
        failures += [thread.failure for thread in self._threads if thread.failure]
        if self._pacemaker.has_died:
            failures.append("the heartbeat thread crashed")
        self.failure = "; ".join(failures)

    @property
    def _is_crippled(self) -> bool:
        return self._pacemaker.has_died or any(thread.has_died for thread in self._threads)

    def _end_if_crippled(self) -> None:
        """Stop if a thread crashed: otherwise the process would silently deliver only in part.

        The process exits with an error, so that a supervisor or service manager restarts it.
        """
        if self._is_crippled:
            logger.critical(
                "A relay thread crashed; shutting down so that the process can be restarted."
            )
            self.stop()

    def _end_if_orphaned(self) -> None:
        """Stop if the supervisor was killed: nothing else would stop or restart this process."""
        if is_orphaned():
            logger.error("The supervisor of this relay process ended; shutting down.")
            self.stop()

    def _join(self, timeout: float) -> list[str]:
        """Wait for the threads; release the leases of those that do not end in time.

        Return what there is to say about them.
        """
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        late = [thread for thread in self._threads if thread.is_alive()]
        releasers = [threading.Thread(target=t.abandon, args=[timeout], daemon=True) for t in late]
        for releaser in releasers:
            releaser.start()
        for releaser in releasers:
            releaser.join(RELEASE_SECONDS)
        return [
            f"a batch of backend {t.alias!r} was still running after {timeout:g} s" for t in late
        ]
