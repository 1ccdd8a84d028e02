"""One consumer's receiver as a thread of the worker, which recovers from every error."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any, Final

from django.db import Error, connections

from django_broadcaster.backoff import Backoff
from django_broadcaster.conf import conf
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    BackendUnavailable,
    BroadcasterError,
    LeaseLost,
)
from django_broadcaster.redaction import text_for_row
from django_broadcaster.relay.backend_thread import DRAIN_FAILURES
from django_broadcaster.relay.db_connections import drop_all_connections, use_own_connections
from django_broadcaster.relay.health import ReceiverState
from django_broadcaster.relay.log_safety import (
    class_names,
    explains_itself,
    loggable,
    loggable_traceback,
)
from django_broadcaster.relay.outage import DatabaseOutage, Repeats
from django_broadcaster.store import storable

from .receiver import Receiver, now_in_database

logger = logging.getLogger("django_broadcaster.receiver")

BATCH_REPEATS: Final = (
    "Consumer %r: Could not acknowledge the last batch: %s; its messages are received again."
)
CONNECTION_STAYS: Final = "Consumer %r: Could not disconnect: %s."
LEASE_STAYS: Final = (
    "Consumer %r: Could not release the lease: %s; another receiver takes over when it expires."
)

ERROR_SHOWN: Final = 500
"""Characters that are stored of an error."""


class ReceiverThread(threading.Thread):
    """Receives for one consumer; if its broker hangs or fails, the others are not affected.

    Args:
        using: The alias of the outbox's database.
        alias: The alias of the consumer.
        limit: The most messages of a batch.
        outage: The log of the database's outages.
        drain: Whether to stop when no message is waiting.
        max_iterations: The number of turns, each of which receives once; None for no limit.
    """

    def __init__(
        self,
        using: str,
        alias: str,
        *,
        limit: int,
        outage: DatabaseOutage,
        drain: bool = False,
        max_iterations: int | None = None,
    ) -> None:
        super().__init__(name=f"receiver-{alias}", daemon=True)
        self.alias = alias
        self.failure = ""
        """Why the thread did not end as it should; empty if it did."""
        self._using = using
        self._drain = drain
        self._turns = count() if max_iterations is None else range(max_iterations)
        self._receiver = Receiver(using, alias, limit=limit, outage=outage)
        self._outage = outage
        self._backoff = Backoff()
        self._repeats = Repeats()
        self._has_died = False
        self._failures = 0
        self._error = ""
        self._unavailable_since: float | None = None
        self._since: Any = None

    def run(self) -> None:
        """Receive until stopped."""
        try:
            for _ in self._turns:
                if self.is_stopping or self._is_drained(self._turn()):
                    break
        except BaseException as error:
            # No error is known to get here. The worker sees it and stops, so that it is restarted.
            self.failure = f"the thread of consumer {self.alias!r} crashed: {class_names(error)}"
            self._has_died = True
            self._log(
                logging.CRITICAL,
                "The thread of consumer %r crashed: %s; stopping the worker.",
                self.alias,
                class_names(error),
                error=error,
            )
        finally:
            self._end()

    # --- What the worker and its pacemaker call ----------------------------------------------

    @property
    def state(self) -> ReceiverState:
        """The state of the thread, which other threads may read."""
        receiver = self._receiver
        return ReceiverState(
            consumer=self.alias,
            doing=receiver.activity.doing,
            silence=receiver.activity.silence,
            has_died=self._has_died,
            has_ended=self.ident is not None and not self.is_alive(),
            lease_left=receiver.lease.seconds_left,
            error=self._error,
            lag=receiver.lag,
            lag_grows=receiver.lag_grows_since is not None,
        )

    @property
    def has_died(self) -> bool:
        """Whether the thread crashed, or is about to end because of an error."""
        return self._has_died

    @property
    def is_stopping(self) -> bool:
        """Whether the thread was asked to stop."""
        return self._receiver.stopping.is_set()

    def stop(self) -> None:
        """Stop after the batch that is being written."""
        self._receiver.stopping.set()

    def renew(self) -> None:
        """Send a heartbeat with the figures, from another thread; raises the database's errors."""
        receiver = self._receiver
        if receiver.lease.seconds_left <= 0 and not receiver.is_reading:
            return
        error, since = self._error, self._since
        silence = receiver.activity.silence
        if not error and silence > conf.STALL_SECONDS:
            error = f"no progress for {silence:.0f} s: {receiver.activity.doing}"
        with suppress(LeaseLost):  # the thread finds out with its next batch, and joins again
            receiver.lease.renew({
                "lag": receiver.lag,
                "lag_grows_since": receiver.lag_grows_since,
                "received_per_second": receiver.rate,
                "unavailable_since": since,
                "error": storable(
                    text_for_row(error, ERROR_SHOWN), connections[self._using]
                )[:ERROR_SHOWN],
            })  # fmt: skip

    def abandon(self, timeout: float) -> None:
        """Release the lease while a batch is still running; runs in a thread of its own."""
        self._log(
            logging.ERROR,
            "Consumer %r: A batch is still running after %g s; releasing its lease.",
            self.alias,
            timeout,
        )
        use_own_connections()
        self._try(self._receiver.lease.leave, LEASE_STAYS)
        drop_all_connections()

    # --- The loop ----------------------------------------------------------------------------

    def _is_drained(self, found: bool) -> bool:
        """Return True if a drain has found nothing more, or fails again and again."""
        if self._drain and self._failures >= DRAIN_FAILURES:
            self.failure = f"consumer {self.alias!r}: {self._error or 'the database is failing'}"
            self._log(
                logging.ERROR,
                "Consumer %r: Drain aborted after %d consecutive failures; messages may be left.",
                self.alias,
                self._failures,
            )
            return True
        is_idle = not found and not self._failures and not self._receiver.may_take_over
        return self._drain and is_idle

    def _turn(self) -> bool:
        """Take one turn; if it fails, pause."""
        try:
            found = self._receiver.turn()
        except BaseException as error:
            self._failures += 1
            self._recover(error)
            return False
        if self._receiver.makes_progress:
            self._works()
        return found

    def _works(self) -> None:
        if self._unavailable_since is not None:
            self._log(
                logging.WARNING,
                "Consumer %r reads again after %.1f s.",
                self.alias,
                time.monotonic() - self._unavailable_since,
            )
        self._error, self._unavailable_since, self._since = "", None, None
        self._failures = 0
        self._backoff.reset()
        self._repeats.reset()
        self._outage.end(self.name)

    def _recover(self, error: BaseException) -> None:
        """Log an error, disconnect and pause. Messages that are not acknowledged come again."""
        pause = self._backoff.next()
        activity = self._receiver.activity
        activity.begin("disconnecting")
        # The client is in the state in which it failed; the error was the one that is logged.
        with suppress(Exception):
            self._receiver.close()
        activity.begin("recovering", pause=pause)
        if isinstance(error, LeaseLost):
            self._log(logging.WARNING, "Lease lost: %s; joining again.", error)
        elif isinstance(error, Error):
            self._outage.note(self.name, error, pause)
        else:
            self._note(error, pause)
        self._receiver.stopping.wait(pause)

    def _note(self, error: BaseException, pause: float) -> None:
        """Remember and log why the broker can't be read."""
        is_ours = isinstance(error, BroadcasterError)
        text = str(error) if is_ours else loggable(error)
        # A broker's text may have characters that no log and no database takes.
        self._error = text = text.encode(errors="backslashreplace").decode()
        if self._unavailable_since is None:
            self._unavailable_since, self._since = time.monotonic(), now_in_database()
        if not self._repeats.take_line(text):
            return
        if isinstance(error, BackendUnavailable):
            self._log(
                logging.WARNING,
                "Consumer %r can't be read: %s; its messages wait.",
                self.alias,
                text,
            )
            return
        self._log(
            logging.ERROR,
            "Consumer %r failed: %s; retrying in %.1f s.",
            self.alias,
            text,
            pause,
            error=None if isinstance(error, BackendConfigurationError) or explains_itself(error)
            else error,
        )  # fmt: skip

    def _end(self) -> None:
        receiver = self._receiver
        receiver.activity.begin("stopping")
        self._try(receiver.finish, BATCH_REPEATS)
        self._try(receiver.close, CONNECTION_STAYS)
        self._try(receiver.leave, LEASE_STAYS)
        receiver.end()

    def _try(self, action: Callable[[], object], warning: str) -> None:
        """Call an action of the end; if it fails, log a warning with the alias and the error."""
        try:
            action()
        except Exception as error:
            self._log(logging.WARNING, warning, self.alias, loggable(error))

    def _log(
        self, level: int, text: str, *values: object, error: BaseException | None = None
    ) -> None:
        extra = {"consumer": self.alias, "receiver": self._receiver.lease.id}
        trace = loggable_traceback(error) if error else None
        logger.log(level, text, *values, extra=extra, exc_info=trace)
