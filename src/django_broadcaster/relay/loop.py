"""One backend's delivery, turn by turn, under a lease."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from time import monotonic, perf_counter
from types import TracebackType
from typing import NamedTuple, Self

from django.db import connections

from django_broadcaster.backends.handler import backends
from django_broadcaster.conf import conf
from django_broadcaster.exceptions import LeaseLost
from django_broadcaster.signals import batch_settled
from django_broadcaster.store import PendingRow

from .announcing import log_delivery
from .batch import Source
from .broker import Broker
from .circuit import Circuit
from .failure_log import FailureLog
from .health import Activity
from .isolation_level import read_committed
from .judging import Judge
from .lease import Lease
from .owned import Owned
from .pipeline import Pipeline
from .probing import Probe
from .rounds import Rounds
from .sending import Sender
from .separate_thread import CallingThread, Runner
from .settling import Settler
from .sources import Backlog, OneEvent
from .taking_over import claim, delivered_before, must_take_over
from .verdicts import Report


class _TakenOver(NamedTuple):
    """The rows that earlier senders have delivered and that are settled now, also in figures."""

    rows: Sequence[PendingRow] = ()
    report: Report = Report()


class DeliveryLoop:
    """Everything that delivers to one backend; a context manager that joins and leaves.

    `turn` does what is due and delivers one batch. After LeaseLost call `join`, after a database
    error `forget`; then the next turn continues.
    """

    def __init__(
        self,
        using: str,
        alias: str,
        *,
        takes_share: bool = True,
        runner: Runner | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.using = using
        self.alias = alias
        self.activity = Activity()
        self.lease = Lease(using, alias, takes_share=takes_share)
        self._runner = runner or CallingThread()
        """Runs what is not the relay's own code: its backend, archive and signal receivers."""
        self._clock = clock
        self.broker = Broker(self.lease, self._runner, self.activity, clock)
        self.rounds = Rounds(self.lease, self.broker, self._runner, self.activity, clock)
        self.is_wanted: Callable[[], bool] = _never
        """Whether there may be something to deliver now: rounds make way for it."""
        self._failure_log = FailureLog(alias, clock)
        self._pipeline: Pipeline | None = None
        self._found_work = False

    def __enter__(self) -> Self:
        self.join()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.broker.close()
            self.end()
        finally:
            self.lease.leave()

    def join(self) -> None:
        """Begin a new lease; nothing that was known under an earlier one holds any more."""
        self._pipeline = None
        self.lease.leave()
        read_committed(connections[self.using])
        self.lease.join()
        owned = Owned(
            self.lease, in_parts=self.broker.backend.may_be_away_in_part, clock=self._clock
        )
        judge = Judge(
            owned,
            backends.retry_policy(self.alias),
            blocks_when_exhausted=backends.blocks_when_exhausted(self.alias),
        )
        sender = Sender(owned, self.broker.backend, self.broker.runner)
        settler = Settler(owned, self._runner, self._failure_log)
        self._pipeline = Pipeline(owned, sender, judge, settler)
        self.broker.forget_shown()
        self.forget()

    def forget(self) -> None:
        """Read everything again: a statement may have been cut off, or have had no answer."""
        self.rounds.restart()
        self.owned.forget()

    def turn(self, limit: int, *, idle: bool = False, woken: bool = False) -> Report:
        """Do what is due, deliver at most `limit` events, and return the delivery in figures.

        Args:
            limit: The most events of the batch.
            idle: Whether there was nothing to do for a while. Then one statement shows whether
                there is now, instead of the seven that a whole turn takes.
            woken: Whether a publisher has notified the relay. Then the delivery goes first; if it
                finds work, the next turn does what is due.
        """
        self.activity.begin("turning")
        self.settle_earlier()
        if idle and self.rounds.can_skip(self.owned):
            return Report()
        if woken and self.rounds.can_wait():
            report = self.deliver(limit)
            if not report.found_work:
                self.do_rounds()
            return report
        self.do_rounds()
        return self.deliver(limit)

    def settle_earlier(self) -> Report | None:
        """Settle what is left of earlier deliveries, while their partitions are still owned.

        Return the figures of the delivery that the database did not let settle, None without one.
        Raises LeaseLost.
        """
        self.lease.renew_if_expired()
        began = perf_counter()
        settler = self.pipeline.settler
        report = settler.settle_interrupted()
        if report is not None:
            self._conclude(report, perf_counter() - began)
        settler.settle_locked()
        self.owned.hasten(self.broker.backend.returned())
        return report

    def do_rounds(self) -> None:
        """Check that the lease stands, and do the rounds if they are due; raises LeaseLost."""
        self.lease.renew_if_expired()
        self.rounds.run(self.owned, found_work=self._found_work, is_wanted=self.is_wanted)

    def deliver(self, limit: int) -> Report:
        """Deliver one batch, or a probe if the broker is or was unavailable.

        Nothing is delivered after `forget` until the rounds have read the partitions again.
        """
        self._found_work = False
        allowed = 0 if self.rounds.is_paused else self._open_for(limit)
        if not allowed or not self.owned.is_current:
            return Report()
        taken_over = self._take_over()
        if taken_over is None:
            return Report()
        if taken_over.rows:
            return taken_over.report
        if not self.circuit.is_closed:
            return self._probe(allowed)
        if not self.lease.partitions or self.owned.locked.are_many:
            return Report()
        timed = self.rounds.history.take_timed_turn()
        return self._one_batch(Backlog(self.owned, allowed, timed=timed))

    def deliver_only(self, row_id: int, partition: int) -> Report:
        """Deliver one pending event of one partition, and no other."""
        if self.rounds.is_paused or not self._open_for(1):
            return Report()
        taken_over = self._take_over()
        if taken_over is None:
            return Report()
        if any(row.id == row_id for row in taken_over.rows):
            return replace(taken_over.report, published=1)
        if not self._open_for(1):  # rows that were just taken over may be locked
            return Report()
        return self._one_batch(OneEvent(self.owned, row_id, partition))

    def end(self) -> None:
        """Settle what another transaction has locked, and write down the last figures."""
        with suppress(LeaseLost):  # then another relay delivers it
            self.owned.hasten(self.broker.backend.returned())
            self.pipeline.settler.wait_for_locked(float(conf.SHUTDOWN_TIMEOUT))
        self.rounds.end()

    @property
    def owned(self) -> Owned:
        """Everything that the lease owns; raises LeaseLost before the first `join`."""
        return self.pipeline.owned

    @property
    def circuit(self) -> Circuit:
        """The circuit breaker of the broker."""
        return self.broker.circuit

    @property
    def is_interrupted(self) -> bool:
        """Whether a delivery is left that the database did not let settle."""
        return self.pipeline.settler.is_interrupted

    @property
    def pipeline(self) -> Pipeline:
        """The steps of a delivery; raises LeaseLost before the first `join`."""
        if self._pipeline is None:
            raise LeaseLost(f"the relay of backend {self.alias!r} has not joined")
        return self._pipeline

    def _probe(self, limit: int) -> Report:
        """Send a few events of different keys, to see whether the broker is available again.

        If it accepted others right before, those that have not failed are sent during the pause.
        """
        is_due = self.circuit.seconds_left() == 0
        probe = Probe(self.owned, limit, repeats=is_due, clock=self._clock)
        report = self._one_batch(probe)
        if probe.found_nothing:
            self.broker.check()
        return report

    def _open_for(self, limit: int) -> int:
        return self.broker.open_for(limit, locked=len(self.owned.locked))

    def _take_over(self) -> _TakenOver | None:
        """Settle what earlier senders have delivered, if the backend keeps positions.

        Return the settled events; None if the relay may not send yet.
        """
        if not must_take_over(self.owned, self.broker):
            return _TakenOver()
        began = perf_counter()
        try:
            rows = delivered_before(self.owned, self.broker)
            if rows is None:
                return None
            report = self.pipeline.settle_delivered(rows) if rows else Report()
            claim(self.owned)
        except BaseException:
            self.broker.close()  # the next attempt has to ask for the positions again
            raise
        self._conclude(report, perf_counter() - began)
        return _TakenOver(rows, report)

    def _one_batch(self, source: Source) -> Report:
        began = perf_counter()
        self.activity.begin("delivering")
        report = self.pipeline.run(source)
        self._conclude(report, perf_counter() - began)
        return report

    def _conclude(self, report: Report, seconds: float) -> None:
        """Draw the conclusions of a delivery for the circuit, the figures, and blocked keys."""
        self.broker.conclude(report)
        self.broker.show()
        if report.found_work:
            self._found_work = True
            self.rounds.add(report)
            log_delivery(report, self.alias, self.lease.id)
            if batch_settled.has_listeners(DeliveryLoop):
                self._runner.run(
                    batch_settled.send_robust,
                    sender=DeliveryLoop,
                    backend=self.alias,
                    relay=self.lease.id,
                    report=report,
                    seconds=seconds,
                    circuit_is_open=not self.circuit.is_closed,
                )
        blocked = self.owned.blocked
        if done := [key for key in report.keys_done if key in blocked]:
            self.owned.release(done)


def _never() -> bool:
    return False
