"""One backend's broker as a relay sees it: available or not, and how much may be sent to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from time import monotonic
from typing import Any, TypeVar

from django_broadcaster.backends.base import MessageBackend, as_delivery_error
from django_broadcaster.backends.greenlets import refuse_greenlets
from django_broadcaster.backends.handler import backends
from django_broadcaster.backends.in_database import InDatabaseBackend
from django_broadcaster.backends.position import Position
from django_broadcaster.conf import conf
from django_broadcaster.exceptions import BackendConfigurationError, DeliveryError
from django_broadcaster.redaction import error_text, masking_errors

from .circuit import Circuit
from .endpoint_book import attach_endpoints
from .health import Activity
from .lease import Lease
from .separate_thread import CallingThread, InTurn, Runner, SeparateThread
from .verdicts import Report

logger = logging.getLogger("django_broadcaster.relay")

T = TypeVar("T")


class Broker:
    """The backend, opened when something is to be sent, and its circuit breaker."""

    def __init__(
        self,
        lease: Lease,
        runner: Runner,
        activity: Activity,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._lease = lease
        self._activity = activity
        self.backend: MessageBackend = backends.create(lease.alias)
        if isinstance(self.backend, InDatabaseBackend):
            self.backend.using = lease.using
        attach_endpoints(self.backend)
        refuse_greenlets(self.backend)
        runs_alone = vars(type(self.backend)).get("runs_alone", False)  # no subclass inherits it
        self.runner: Runner = CallingThread() if runs_alone else runner
        self._has_threads = isinstance(runner, SeparateThread)
        lock = backends.lock_of(lease.alias)
        self._closes = lock is None or lease.takes_share  # a visitor leaves it open for the others
        if lock is None:
            self._attach()
        else:
            self.runner = InTurn(self.runner, lock, self._attach)
        self.circuit = Circuit(**conf.CIRCUIT, clock=clock)  # type: ignore[arg-type]  # judged by checks.py
        self._clock = clock
        self._is_open = False
        self._away_since = 0.0
        self.error: str | None = None
        """Why the broker is unavailable; None if it is available."""
        self._shown: str | None = None

    def open_for(self, limit: int, *, locked: int) -> int:
        """Open the backend unless it is open, or nothing may be sent now.

        Return how many events may be sent: `limit`, a probe, or none. A position has a batch and
        the `locked` events, so together they are at most `max_batch`.
        """
        backend = self.backend
        if backend.max_batch is not None:
            limit = min(limit, backend.max_batch - (locked if backend.keeps_positions else 0))
        allowed = self.circuit.allowance(limit) if limit > 0 else 0
        return allowed if allowed and (self._is_open or self._open()) else 0

    def take_over(self, earlier: Collection[int]) -> Sequence[Position] | None:
        """Let the backend take over from earlier leases, and return their last positions.

        Return None if the broker is unavailable.
        """
        self._activity.begin("taking over from earlier relays")
        return self._try(self.backend.take_over, self._lease.id, earlier)

    def conclude(self, report: Report) -> None:
        """Draw the conclusion of a delivery for the circuit."""
        if report.unavailable:
            self._note_failure(report.unavailable, report)
        elif report.handed:
            self._note_available()

    def check(self) -> None:
        """Ask the backend whether its broker is available, because no event would show it.

        What waited may have been cancelled, or may belong to another relay.
        """
        self._activity.begin("checking the broker")
        if self.runner.run(self.backend.health_check):
            self._note_available()
        else:
            self.circuit.failed()

    def show(self) -> None:
        """Show the circuit to the dashboard: one statement when it opens, one when it closes."""
        if self.error != self._shown:
            self._lease.show_circuit(self.error)
            self._shown = self.error

    def forget_shown(self) -> None:
        """Show the circuit again: the lease is a new one."""
        self._shown = None

    def close(self) -> None:
        """Release what the backend holds; raises what the backend raises."""
        if self._closes:
            self.runner.run(self.backend.close)

    def _attach(self) -> None:
        """Let the backend report its progress to this relay."""
        self.backend.on_progress = self._activity.go_on
        self.backend.new_thread = SeparateThread if self._has_threads else None

    def _open(self) -> bool:
        self._activity.begin("connecting to the broker")
        if self.backend.keeps_positions:  # `take_over` opens it
            self._is_open = True
            return True
        if self._try(self._open_backend) is None:
            return False
        self._is_open = True
        self._note_available()  # if nothing is to be sent, nothing else would show it
        return True

    def _open_backend(self) -> bool:
        self.backend.open()
        return True

    def _try(self, function: Callable[..., T], *args: Any) -> T | None:
        """Call a method of the backend; return None if it fails, which opens the circuit."""
        try:
            with masking_errors():
                return self.runner.run(function, *args)
        except BackendConfigurationError:
            raise
        except Exception as error:
            self._note_unavailable(as_delivery_error(error))
            return None

    def _note_failure(self, error: DeliveryError, report: Report) -> None:
        """Note an outage; or a doubt, if other events are delivered.

        A visitor is gone before a pause ends, so it tries other events at once in any case.
        """
        if report.published:
            self._note_available()
        if self.circuit.is_closed and (
            report.published or report.is_repeat or not self._lease.takes_share
        ):
            self.circuit.failed(at_least=error.retry_after, doubted=True)
        else:
            doubted = self.circuit.is_doubted and report.is_repeat
            self._note_unavailable(error, doubted=doubted)

    def _note_unavailable(self, error: DeliveryError, *, doubted: bool = False) -> None:
        if self.error is None:
            self._away_since = self._clock()
            logger.warning(
                "Backend %r is unavailable: %s; its events wait.",
                self._lease.alias,
                error,
                extra=self._lease.log_extra,
            )
        self.circuit.failed(at_least=error.retry_after, doubted=doubted)
        self.error = self.error or error_text(error)

    def _note_available(self) -> None:
        if self.error is not None:
            logger.warning(
                "Backend %r is available again after %.1f s.",
                self._lease.alias,
                self._clock() - self._away_since,
                extra=self._lease.log_extra,
            )
        self.circuit.succeeded()
        self.error = None
