"""The worker's process: a thread for each backend and consumer, a pacemaker, and a clean stop."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from django_broadcaster import __version__
from django_broadcaster.conf import conf
from django_broadcaster.idle_connections import return_to_pools
from django_broadcaster.signals import relay_started

from .backend_thread import BackendThread, WorkerOptions
from .db_connections import warn_of_small_pool
from .gc_tuning import seldom_collected
from .health import ReceiverState, RelayState
from .outage import DatabaseOutage
from .pacemaker import Pacemaker
from .supervisor import is_orphaned

logger = logging.getLogger("django_broadcaster.relay")

RELEASE_SECONDS = 2.0
"""Seconds for releasing leases after the timeout: the database may hang."""


class WorkerThread(Protocol):
    """A thread of a backend or a consumer, as the worker sees it."""

    alias: str
    failure: str

    @property
    def has_died(self) -> bool:
        """Whether the thread crashed."""

    @property
    def is_stopping(self) -> bool:
        """Whether the thread was asked to stop."""

    def start(self) -> None:
        """Start the thread."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end of the thread."""

    def is_alive(self) -> bool:
        """Return True while the thread runs."""

    def stop(self) -> None:
        """Stop after the batch in flight."""

    def renew(self) -> None:
        """Send a heartbeat."""

    def abandon(self, timeout: float) -> None:
        """Release the lease while a batch is still running."""


class Receiving(WorkerThread, Protocol):
    """The thread of a consumer."""

    @property
    def state(self) -> ReceiverState:
        """The state of the thread."""


MakeReceiver = Callable[[str, DatabaseOutage], Receiving]
"""Makes the receiver of a consumer, from its alias and the log of the database's outages."""


class Worker:
    """Delivers the events of several backends, and receives for several consumers, until stopped.

    Args:
        options: How the worker runs.
        make_receiver: Makes a receiver for each of the consumers in the options.
    """

    def __init__(self, options: WorkerOptions, make_receiver: MakeReceiver | None = None) -> None:
        self._options = options
        outage = DatabaseOutage(options.database)
        loops = [BackendThread(options, alias, outage) for alias in options.backends]
        self._loops = loops
        self._receivers = (
            [make_receiver(alias, outage) for alias in options.consumers] if make_receiver else []
        )
        for loop in loops:
            loop.may_end = self._have_receivers_ended
        self._threads: Sequence[WorkerThread] = (*self._receivers, *loops)
        self._pacemaker = Pacemaker(options.database, loops, outage, self._receivers)
        self.failure = ""
        """Why the relay did not end as it should; empty if it did."""

    def stop(self) -> None:
        """Stop after the batches in flight; a signal handler or any thread may call this."""
        for thread in self._threads:
            thread.stop()

    @property
    def state(self) -> RelayState:
        """The state of the threads; any thread may read it."""
        loops = tuple(thread.state for thread in self._loops)
        receivers = tuple(thread.state for thread in self._receivers)
        pacemaker = self._pacemaker
        has_ended = [each.has_ended for each in loops] + [each.has_ended for each in receivers]
        works = not all(has_ended)
        return RelayState(
            process=os.getpid(),
            is_stopping=not works or all(thread.is_stopping for thread in self._threads),
            pacemaker_has_died=pacemaker.has_died,
            pacemaker_silence=pacemaker.activity.silence,
            loops=loops,
            receivers=receivers,
        )

    def _have_receivers_ended(self) -> bool:
        return not any(receiver.is_alive() for receiver in self._receivers)

    def run(self) -> bool:
        """Work until stopped or done; return True if everything ended without an error."""
        options = self._options
        relay_started.send_robust(
            sender=Worker,
            database=options.database,
            backends=options.backends,
            consumers=options.consumers,
        )
        warn_of_small_pool(options.database, options.backends)
        return_to_pools()  # from here on this thread only waits
        logger.info(
            "Relay started: django-broadcaster %s, host %s, process %d, database %r, "
            "backends %s%s.",
            __version__,
            socket.gethostname(),
            os.getpid(),
            options.database,
            ", ".join(map(repr, options.backends)) or "none",
            f", consumers {', '.join(map(repr, options.consumers))}" if options.consumers else "",
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
        for thread in self._threads:
            thread.start()
        self._pacemaker.start()
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
            f"a batch of {'backend' if t in self._loops else 'consumer'} {t.alias!r} was still "
            f"running after {timeout:g} s"
            for t in late
        ]
