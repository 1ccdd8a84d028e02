"""One backend's delivery loop as a thread of the worker, which recovers from every error."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from django.db import Error, connections

from django_broadcaster.backoff import Backoff
from django_broadcaster.conf import conf
from django_broadcaster.exceptions import LeaseLost
from django_broadcaster.notify import waking
from django_broadcaster.store import keep_plans

from .db_connections import drop_all_connections, drop_connection, use_own_connections
from .health import LoopState
from .log_safety import class_names, explains_itself, loggable, loggable_traceback
from .loop import DeliveryLoop
from .outage import DatabaseOutage, Repeats
from .polling import Poll
from .separate_thread import SeparateThread
from .verdicts import Report

logger = logging.getLogger("django_broadcaster.relay")

DRAIN_FAILURES = 5
"""Consecutive failures, in about six seconds, after which a drain is aborted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How a worker runs.

    Args:
        database: The alias of the outbox's database.
        backends: The aliases of the backends to deliver to.
        batch_size: The most events of one delivery.
        interval: The longest pause between two polls, in seconds.
        max_iterations: The number of polls for each backend and consumer; None for no limit.
        drain: Whether to stop when nothing is left to deliver.
        consumers: The aliases of the consumers to receive for.
    """

    database: str
    backends: Sequence[str]
    batch_size: int
    interval: float
    max_iterations: int | None = None
    drain: bool = False
    consumers: Sequence[str] = ()


class BackendThread(threading.Thread):
    """Delivers to one backend; if that backend hangs or fails, the others are not affected.

    If the lease is lost, the thread joins again. Any error is retried with growing pauses, because
    a relay that gave up would stall silently. An error that is not an `Exception`, such as a
    timeout of gevent, also counts as a crash for the batch in flight. If the thread ends all the
    same, the worker stops.
    """

    def __init__(
        self, options: WorkerOptions, alias: str, outage: DatabaseOutage | None = None
    ) -> None:
        super().__init__(name=f"relay-{alias}", daemon=True)
        self.alias = alias
        self.failure = ""
        """Why the thread did not end as it should; empty if it did."""
        self.may_end: Callable[[], bool] = lambda: True
        """Tells whether a drain may end: not while a receiver still adds events."""
        self._options = options
        self._stopping = threading.Event()
        self._poll = Poll(options.interval)
        self._runner = SeparateThread(f"relay-{alias}-code")
        self._loop = DeliveryLoop(options.database, alias, runner=self._runner)
        self._loop.is_wanted = self._poll.wake.is_set
        self._joined = False
        self.has_session = False
        """Whether the database's sessions are not shared, which a NOTIFY has shown."""
        self.has_died = False
        """Whether the thread crashed, or is about to end because of an error."""
        self._last_error = self._last_text = ""
        self._outage = outage or DatabaseOutage(options.database)
        self._unexpected = Repeats()
        self._backoff = Backoff()
        self._lost_lease = False
        """Whether no turn succeeded since a lease was lost."""

    def run(self) -> None:
        """Turn the loop until it is stopped, out of iterations, or drained."""
        try:
            use_own_connections()
            with waking(self._options.database, self.alias, self._wake_for_event):
                self._turn_until_stopped()
        except BaseException as error:
            # No error is known to get here. The worker sees it and stops, so that it is restarted.
            self.failure = f"the thread of backend {self.alias!r} crashed: {class_names(error)}"
            self.has_died = True
            self._log(
                logging.CRITICAL,
                "The thread of backend %r crashed: %s; stopping the relay.",
                self.alias,
                class_names(error),
                error=error,
            )
        finally:
            self._end()

    def _turn_until_stopped(self) -> None:
        turns = failures = 0
        while not self._stopping.is_set() and turns != self._options.max_iterations:
            turns += 1
            report = self._turn()
            failures = failures + 1 if report is None else 0
            if self._options.drain and failures >= DRAIN_FAILURES:
                self._log(
                    logging.ERROR,
                    "Backend %r: Drain aborted after %d consecutive failures; some events may not "
                    "have been delivered.",
                    self.alias,
                    failures,
                )
                self.failure = f"backend {self.alias!r}: {self._last_text}"
                break
            if report is None or report.found_work:
                continue
            if self._options.drain and self.may_end() and self._is_drained():
                break
            self._loop.activity.begin("waiting for events", pause=self._options.interval)
            self._poll.wait()

    @property
    def state(self) -> LoopState:
        """The state of the thread, which other threads may read."""
        activity, lease = self._loop.activity, self._loop.lease
        return LoopState(
            backend=self.alias,
            doing=activity.doing,
            silence=activity.silence,
            has_died=self.has_died,
            has_ended=self.ident is not None and not self.is_alive(),
            lease_left=lease.seconds_left if self._joined else 0.0,
            circuit_is_closed=self._loop.circuit.is_closed,
            is_paused=self._loop.rounds.is_paused,
            last_error=self._last_error,
        )

    @property
    def is_stopping(self) -> bool:
        """Whether the thread was asked to stop."""
        return self._stopping.is_set()

    def wake(self) -> None:
        """Poll the outbox now."""
        self._poll.wake.set()

    def _wake_for_event(self) -> bool:
        """Poll now, for an event of this process; return True if no other relay may deliver it."""
        self.wake()
        return self._joined and len(self._loop.lease.partitions) == conf.PARTITIONS

    def rebalance_soon(self) -> None:
        """Rebalance the partitions now: a relay joined or left."""
        self._loop.rounds.are_wanted.set()
        self.wake()

    def stop(self) -> None:
        """Stop after the batch in flight."""
        self._stopping.set()
        self.wake()

    def renew(self) -> None:
        """Send a heartbeat; raises the database's errors."""
        if self._joined:
            try:
                self._loop.lease.renew()
            except LeaseLost:
                self.wake()  # the thread finds out in its next turn, and joins again

    def abandon(self, timeout: float) -> None:
        """Release the lease while a batch is still running; runs in a thread of its own."""
        self._log(
            logging.ERROR,
            "Backend %r: A batch is still running after %g s; releasing its lease.",
            self.alias,
            timeout,
        )
        use_own_connections()
        self._leave()
        drop_all_connections()

    def _turn(self) -> Report | None:
        """Take one turn; if it fails, pause and return None."""
        try:
            if not self._joined:
                self._loop.activity.begin("joining")
                self._loop.join()
                self._joined = True
            if self.has_session:
                keep_plans(connections[self._options.database])
            idle, woken = self._poll.is_idle, self._poll.take_wake()
            report = self._loop.turn(self._options.batch_size, idle=idle, woken=woken)
        except LeaseLost as error:
            self._log(logging.WARNING, "Lease lost: %s; joining again.", error)
            self._joined = False
            self._last_text = str(error)
            if self._lost_lease:  # the one before, too
                self._stopping.wait(self._backoff.next())
            self._lost_lease = True
            return None
        except BaseException as error:
            self._recover(error)
            return None
        self._backoff.reset()
        self._lost_lease = False
        self._last_error = ""
        self._outage.end(self.name)
        self._unexpected.reset()
        if report.found_work:
            self._poll.reset()
        elif self._loop.rounds.is_operating:
            self._poll.stay_awake()
        return report

    def _recover(self, error: BaseException) -> None:
        """Log an error and pause; then continue under the same lease, if it is still valid."""
        pause = self._backoff.next()
        self._last_error, self._last_text = type(error).__name__, loggable(error)
        self._loop.activity.begin("recovering", pause=pause)
        if isinstance(error, Error):
            self._outage.note(self.name, error, pause)
        elif self._unexpected.take_line(self._last_text):
            self._log(
                logging.ERROR,
                "Backend %r: Unexpected error: %s; retrying in %.1f s.",
                self.alias,
                self._last_text,
                pause,
                error=None if explains_itself(error) else error,
            )
        drop_connection(self._options.database)
        if self._joined:
            self._loop.forget()
        if self._joined and not isinstance(error, Exception):
            self._try_twice(self._loop.lease.count_crash)
        self._stopping.wait(pause)

    def _is_drained(self) -> bool:
        """Return True if no event is left to wait for, or if none can be delivered."""
        if self._loop.rounds.is_operating:
            return False
        state = ""
        if not self._loop.circuit.is_closed:
            why = self._loop.broker.error or "an event fails as if it were"
            state = f"unavailable ({why}); undelivered events remain"
        elif self._loop.rounds.is_paused:
            state = "paused; undelivered events may remain"
        if state:
            self._log(logging.ERROR, "Drain stopped: backend %r is %s.", self.alias, state)
            self.failure = f"backend {self.alias!r} is {state}"
            return True
        try:
            return not self._loop.owned.rows.has_due()
        except Error as error:
            self._recover(error)
            return False

    def _end(self) -> None:
        self._loop.activity.begin("stopping")
        try:
            self._loop.broker.close()
        except Exception as error:
            self._log(
                logging.WARNING,
                "Could not close backend %r: %s.",
                self.alias,
                loggable(error),
                error=error,
            )
        if self._joined and (failure := self._try_twice(self._loop.settle_earlier)):
            self._log(
                logging.WARNING,
                "Could not settle the last batch of backend %r: %s; it may be delivered again.",
                self.alias,
                loggable(failure),
            )
        if self._joined:
            self._try_twice(self._loop.end)
        self._leave()
        self._runner.end()
        drop_all_connections()

    def _leave(self) -> None:
        if self._joined:
            self._joined = False
            if failure := self._try_twice(self._loop.lease.leave):
                self._log(
                    logging.WARNING,
                    "Could not release the lease of backend %r: %s; its partitions are free when "
                    "it expires.",
                    self.alias,
                    loggable(failure),
                )

    def _try_twice(self, action: Callable[[], object]) -> Exception | None:
        """Call an action, once more if the database failed; return the error of the second time."""
        failure: Exception | None = None
        for _ in range(2):
            try:
                action()
            except LeaseLost as error:
                return error
            except Exception as error:
                failure = error
                drop_connection(self._options.database)
            else:
                return None
        return failure

    def _log(
        self, level: int, text: str, *values: object, error: BaseException | None = None
    ) -> None:
        trace = loggable_traceback(error) if error else None
        logger.log(level, text, *values, extra=self._loop.lease.log_extra, exc_info=trace)
