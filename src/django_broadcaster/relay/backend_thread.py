"""One backend's delivery loop as a thread of the worker, which lives through what goes wrong."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from django.db import Error

from django_broadcaster.backoff import Backoff
from django_broadcaster.exceptions import LeaseLost

from .db_connections import drop_all_connections, drop_connection, use_own_connections
from .health import LoopState
from .log_safety import class_names, explains_itself, loggable, loggable_traceback
from .loop import DeliveryLoop
from .polling import Poll
from .separate_thread import SeparateThread
from .verdicts import Report

logger = logging.getLogger("django_broadcaster.relay")

DRAIN_FAILURES = 5
"""Turns in a row, in about six seconds, after whose failure a drain gives up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How a worker runs; `interval` is in seconds, None for `max_iterations` is for ever."""

    database: str
    backends: Sequence[str]
    batch_size: int
    interval: float
    max_iterations: int | None = None
    drain: bool = False


class BackendThread(threading.Thread):
    """Delivers to one backend; a backend that hangs or fails does not touch the others.

    A lost lease is begun anew. A database that is away, or an error that nobody foresaw, is tried
    again with growing pauses: a relay that gave up would be a silent stall. So is what ends threads
    and is no `Exception`, such as a timeout of gevent's; it is laid to the batch in flight, as the
    death of a relay is. Should the thread end all the same, the worker does.
    """

    def __init__(self, options: WorkerOptions, alias: str) -> None:
        super().__init__(name=f"relay-{alias}", daemon=True)
        self.alias = alias
        self.succeeded = True
        self._options = options
        self._stopping = threading.Event()
        self._poll = Poll(options.interval)
        self._runner = SeparateThread(f"relay-{alias}-code")
        self._loop = DeliveryLoop(options.database, alias, runner=self._runner)
        self._joined = False
        self._has_died = False
        self._trouble = ""
        self._backoff = Backoff()

    def run(self) -> None:
        """Turn the loop until told to stop, out of iterations, or drained."""
        try:
            use_own_connections()
            self._turn_on()
        except BaseException as error:
            # Nothing is known that gets here. It must not be silent, nor keep the partitions: the
            # worker sees it and ends, for whoever started it to start it anew.
            self.succeeded = False
            self._has_died = True
            self._log(logging.CRITICAL, f"its thread ends: {class_names(error)}", exc_info=error)
        finally:
            self._end()

    def _turn_on(self) -> None:
        turns = failures = 0
        while not self._stopping.is_set() and turns != self._options.max_iterations:
            turns += 1
            report = self._turn()
            failures = failures + 1 if report is None else 0
            if self._options.drain and failures >= DRAIN_FAILURES:
                self._log(logging.ERROR, "the drain gets nowhere and gives up, events may be left")
                self.succeeded = False
                break
            if report is None or report.found_work:
                continue
            if self._options.drain and self._is_drained():
                break
            self._loop.activity.begin("waiting for events", pause=self._options.interval)
            self._poll.wait()

    @property
    def state(self) -> LoopState:
        """How it is doing, for who watches from another thread."""
        activity, lease = self._loop.activity, self._loop.lease
        return LoopState(
            backend=self.alias,
            doing=activity.doing,
            silence=activity.silence,
            has_died=self._has_died,
            has_ended=self.ident is not None and not self.is_alive(),
            lease_left=lease.seconds_left if self._joined else 0.0,
            circuit_is_closed=self._loop.circuit.is_closed,
            is_paused=self._loop.is_paused,
            trouble=self._trouble,
        )

    @property
    def has_died(self) -> bool:
        """Whether it ended, or is about to, by what it could not live through."""
        return self._has_died

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    def wake(self) -> None:
        """Look at the outbox now."""
        self._poll.wake.set()

    def look_at_share(self) -> None:
        """See now which partitions are due to it: a relay has come or gone."""
        self._loop.share_changed.set()
        self.wake()

    def stop(self) -> None:
        """Finish the batch in flight and end."""
        self._stopping.set()
        self.wake()

    def renew(self) -> None:
        """Send a heartbeat; raises the database's errors."""
        if self._joined:
            try:
                self._loop.lease.renew()
            except LeaseLost:
                self.wake()  # its own look at the lease says so, and it joins again

    def abandon(self, timeout: float) -> None:
        """Give a batch back that did not end in time; runs in a thread of its own."""
        self._log(logging.ERROR, f"its batch did not end in {timeout} s and is given back")
        use_own_connections()
        self._leave()
        drop_all_connections()

    def _turn(self) -> Report | None:
        """Take one turn; return None if it broke off, after the pause that is due then."""
        try:
            if not self._joined:
                self._loop.activity.begin("joining")
                self._loop.rejoin()
                self._joined = True
            report = self._loop.turn(self._options.batch_size, idle=self._poll.is_idle)
        except LeaseLost as error:
            self._log(logging.WARNING, f"{error}; joining again")
            self._joined = False
            return None
        except BaseException as error:
            self._recover(error)
            return None
        self._backoff.reset()
        self._trouble = ""
        if report.found_work:
            self._poll.reset()
        elif self._loop.is_operating:
            self._poll.stay_awake()
        return report

    def _recover(self, error: BaseException) -> None:
        """Pause, then go on under the same lease if it still stands."""
        pause = self._backoff.next()
        self._trouble = type(error).__name__
        self._loop.activity.begin("recovering", pause=pause)
        foreseen = explains_itself(error)
        self._log(
            logging.WARNING if isinstance(error, Error) else logging.ERROR,
            f"trouble, going on in {pause:.1f} s: {loggable(error)}",
            exc_info=None if foreseen else error,
        )
        drop_connection(self._options.database)
        if self._joined:
            self._loop.forget()
        if self._joined and not isinstance(error, Exception):
            self._insist(self._loop.lease.own_up)
        self._stopping.wait(pause)

    def _is_drained(self) -> bool:
        """Tell whether there is nothing left to wait for; a broker that is away is no success."""
        if self._loop.is_operating:
            return False
        if not self._loop.circuit.is_closed:
            self._log(logging.ERROR, "it is unavailable, events are left")
            self.succeeded = False
            return True
        if self._loop.is_paused:
            self._log(logging.ERROR, "it is paused, events may be left")
            self.succeeded = False
            return True
        try:
            return not self._loop.has_due()
        except Error as error:
            self._recover(error)
            return False

    def _end(self) -> None:
        self._loop.activity.begin("stopping")
        try:
            self._loop.close()
        except Exception as error:
            self._log(
                logging.WARNING, f"its backend did not close: {loggable(error)}", exc_info=error
            )
        if self._joined and (failure := self._insist(self._loop.finish)):
            self._log(logging.WARNING, f"its last batch may be sent again: {loggable(failure)}")
        if self._joined:
            self._insist(self._loop.end)
        self._leave()
        self._runner.end()
        drop_all_connections()

    def _leave(self) -> None:
        if self._joined:
            self._joined = False
            if failure := self._insist(self._loop.lease.leave):
                problem = f"its partitions are free once the lease ends: {loggable(failure)}"
                self._log(logging.WARNING, problem)

    def _insist(self, action: Callable[[], object]) -> Exception | None:
        """Do something now; a second time if the connection was lost. Return what prevents it."""
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

    def _log(self, level: int, problem: str, exc_info: BaseException | None = None) -> None:
        extra = {"backend": self.alias, "relay": self._loop.lease.relay_id}
        trace = loggable_traceback(exc_info) if exc_info else None
        logger.log(level, "backend %r: %s", self.alias, problem, extra=extra, exc_info=trace)
