"""One backend's delivery, turn by turn, under a lease."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from threading import Event
from types import TracebackType
from typing import Self

from django.db import connections

from django_broadcaster.backends.base import MessageBackend, as_delivery_error
from django_broadcaster.backends.greenlets import refuse_greenlets
from django_broadcaster.backends.handler import backends
from django_broadcaster.conf import conf
from django_broadcaster.exceptions import BackendConfigurationError, DeliveryError, LeaseLost
from django_broadcaster.redaction import hiding, kept
from django_broadcaster.signals import batch_settled
from django_broadcaster.store import RelayRows

from .announcing import log_delivery
from .circuit import Circuit
from .delivery import Delivery
from .endpoint_book import attach_endpoints
from .health import Activity
from .history import History
from .isolation import read_committed
from .lease import Lease
from .maintenance import Purge, promote_due, release_unblocked
from .operations import Operations
from .separate_thread import CallingThread, Runner
from .verdicts import Report
from .watermark import Watermark

logger = logging.getLogger("django_broadcaster.relay")

TICK_SECONDS = 0.5
"""Seconds between rounds of rebalancing and maintenance, so partitions that became free are taken
well within a second also where no NOTIFY tells of them."""

IDLE_SECONDS = 20.0
"""Seconds between these rounds where nothing stirs for a while."""

REREAD_SHARE = 100
"""How many times as long as a look at all blocked keys takes goes by until the next."""


class DeliveryLoop:
    """Everything that delivers to one backend; a context manager that joins and leaves.

    `turn` does what is due and delivers one batch. It raises LeaseLost, after which `rejoin` begins
    anew, and the database's errors, after which `forget` is enough to go on.
    """

    def __init__(
        self,
        using: str,
        alias: str,
        *,
        takes_share: bool = True,
        runner: Runner | None = None,
    ) -> None:
        self.using = using
        self.alias = alias
        self.runner = runner or CallingThread()
        """Runs what is not the relay's own code: its backend, archive and signal receivers."""
        self.backend: MessageBackend = backends.create(alias)
        runs_alone = vars(type(self.backend)).get("runs_alone", False)  # no subclass inherits it
        self.backend_runner = CallingThread() if runs_alone else self.runner
        refuse_greenlets(self.backend)
        self.circuit = Circuit(**conf.CIRCUIT)  # type: ignore[arg-type]  # judged by checks.py
        self.lease = Lease(using, alias, takes_share=takes_share)
        self.operations = Operations(using, self.runner)
        self._takes_share = takes_share
        self.activity = Activity()
        self.backend.on_progress = self.activity.go_on
        attach_endpoints(self.backend)
        self.share_changed = Event()
        """Set from another thread when relays came or went: the next turn looks at the share."""
        self._policy = backends.retry_policy(alias)
        self._blocks = backends.blocks_when_exhausted(alias)
        self._purge = Purge(using, alias, self.runner, self.lease.clock)
        self._history = History(using, alias)
        self._circuit_error: str | None = None
        self._circuit_shown: str | None = None
        self._is_open = False
        self._is_current = False
        self._next_tick = 0.0
        self._next_full_turn = 0.0
        self._next_reread = 0.0
        self._relays_known = 0
        self.is_paused = False
        self._found_work = False

    def __enter__(self) -> Self:
        self.rejoin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
            self.end()
        finally:
            self.lease.leave()

    def rejoin(self) -> None:
        """Begin a new lease, with nothing remembered of the one before."""
        self.lease.leave()
        read_committed(connections[self.using])
        self.lease.join()
        self.rows = RelayRows(
            self.using, self.alias, self.lease.relay_id, self.lease.clock, self.lease.timeline
        )
        self.delivery = Delivery(
            self.rows,
            self.lease,
            self.backend,
            self._policy,
            self.runner,
            self.backend_runner,
            blocks_when_exhausted=self._blocks,
        )
        self.watermark = Watermark(self.rows)
        self._circuit_shown = None
        self.forget()

    def forget(self) -> None:
        """Take nothing remembered of the rows for granted: a statement may have been cut off."""
        self._next_tick = self._next_reread = 0.0
        self._is_current = False
        self.watermark.reset()
        self.delivery.doubts.look_again()

    def turn(self, limit: int, *, idle: bool = False) -> Report:
        """Do what is due, deliver at most `limit` events, and say what came of it.

        `idle` says that there was nothing for a while: then one statement looks whether it is
        worth while, instead of the seven that it takes to see to everything.
        """
        self.activity.begin("turning")
        self.finish()
        if idle and time.monotonic() < self._next_full_turn and not self._stirs():
            return Report()
        self.prepare()
        return self.deliver(limit)

    def finish(self) -> Report | None:
        """Settle what the database kept from being settled, while its partitions are still ours.

        Returns what came of it, None if there was nothing. Raises LeaseLost.
        """
        self.lease.require()
        began = time.perf_counter()
        report = self.delivery.finish()
        if report is not None:
            self._after(report, time.perf_counter() - began)
        self.delivery.settle_locked()
        self.delivery.hasten_returned()
        return report

    def close(self) -> None:
        """Release what the backend holds; raises what the backend raises."""
        self.backend_runner.run(self.backend.close)

    def end(self) -> None:
        """Settle what another transaction had locked, and write down the last figures."""
        with suppress(LeaseLost):  # then another relay delivers it
            self.delivery.hasten_returned()
            self.delivery.wait_for_locked(float(conf.SHUTDOWN_TIMEOUT))
        self._history.write(looks=False)

    def prepare(self) -> None:
        """See that the lease stands, and share, promote, release and purge when it is time to.

        The same for operations in the background.
        """
        self.lease.require()
        if self.share_changed.is_set() or time.monotonic() >= self._next_tick:
            self.share_changed.clear()  # before it looks, not to miss what comes meanwhile
            self._tick()
        if self._operates and self.operations.is_due:
            self.activity.begin("moving events for an operator")
            self.operations.run(idle=not self._found_work)

    @property
    def is_operating(self) -> bool:
        """Whether it moves events for an operation in the background."""
        return self._operates and self.operations.is_moving

    @property
    def _operates(self) -> bool:
        # Not in a process that only visits: it may be that of a request.
        return self._takes_share and 0 in self.lease.partitions

    def _stirs(self) -> bool:
        """Tell whether events are there to deliver, or relays came or went."""
        pulse = self.rows.pulse(self.lease.partitions, self.watermark.start)
        changed = pulse.relays != self._relays_known or pulse.overdue or pulse.free_partitions
        changed = changed or pulse.is_paused != self.is_paused
        self._relays_known = pulse.relays
        if changed:
            self._next_tick = 0.0
        if pulse.operation and self._operates:
            return True
        waits = pulse.pending or pulse.due or self.watermark.has_again
        return bool(changed or (waits and not self.is_paused))

    def deliver(self, limit: int) -> Report:
        """Deliver one batch of the own partitions, as far as the circuit lets it."""
        self._found_work = False
        allowed = self._allowance(limit)
        if not allowed:
            return Report()
        if self.circuit.is_closed:
            return self._deliver(allowed) if self.lease.partitions else Report()
        return self._probe(allowed)

    def _probe(self, limit: int) -> Report:
        """See whether the broker takes events again, by a few of different keys.

        Where it took others right before, those are tried that have not failed, whatever the pause.
        """
        began = time.perf_counter()
        self.activity.begin("delivering")
        is_due = self.circuit.seconds_left() == 0
        partitions = self.lease.partitions
        report = self.delivery.probe(limit, partitions, repeats=is_due) if partitions else None
        if report is None:
            if is_due:
                self._ask_broker()
            return Report()
        self._found_work = report.found_work
        self._after(report, time.perf_counter() - began)
        return report

    def _deliver(self, limit: int) -> Report:
        began = time.perf_counter()
        self.activity.begin("delivering")
        self.watermark.look()
        again, is_all = self.watermark.again(limit)
        report = self.delivery.deliver(
            limit,
            self.watermark.start,
            self.lease.partitions,
            again,
            only_again=not is_all,
            timed=self._history.wants_times(),
        )
        self.watermark.note(report, again)
        self._found_work = report.found_work
        self._after(report, time.perf_counter() - began)
        return report

    def deliver_only(self, row_id: int, partition: int) -> Report:
        """Deliver one pending event of one partition, and no other."""
        if not self._allowance(1):
            return Report()
        began = time.perf_counter()
        report = self.delivery.deliver_these({partition}, [row_id])
        self._after(report, time.perf_counter() - began)
        return report

    def has_due(self) -> bool:
        """Tell whether the backend has events that are due, whoever owns their partitions."""
        return self.rows.has_due()

    def _tick(self) -> None:
        """Share the partitions out, and see to what is due, what waited, and what is old."""
        self._look_whether_paused()
        changed = self.lease.rebalance()
        if changed or not self._is_current:
            self.watermark.reset()
            self.delivery.fetcher.reset()
            self.delivery.blocked.reload(self.lease.partitions)
            self._is_current = True
        self._reread_blocked()  # before the promotion, after which a key waits for nothing
        more = promote_due(self.rows, self.lease, self.delivery.blocked, self.watermark)
        is_purger = 0 in self.lease.partitions
        if is_purger:
            self.activity.begin("purging old events")
            self._purge.run()
        self._show_circuit()
        self._history.run(
            looks=0 in self.lease.partitions, circuit_is_open=not self.circuit.is_closed
        )
        if changed or more:
            self.delivery.doubts.look_again()
        now = time.monotonic()
        self._next_tick = now + (0 if more else TICK_SECONDS)
        if is_purger and self._purge.is_behind:
            self._next_full_turn = self._next_tick
        elif self.delivery.blocked or self._history.has_news or not self.circuit.is_closed:
            # None of these stirs when it is time.
            self._next_full_turn = now + min(IDLE_SECONDS, self.lease.seconds / 2)
        else:
            self._next_full_turn = now + IDLE_SECONDS

    def _look_whether_paused(self) -> None:
        was_paused, self.is_paused = self.is_paused, self.rows.is_paused()
        if was_paused != self.is_paused:
            extra = {"backend": self.alias, "relay": self.lease.relay_id}
            now = "is paused, its events wait" if self.is_paused else "is resumed"
            logger.warning("backend %r %s", self.alias, now, extra=extra)

    def _reread_blocked(self) -> None:
        """Find the keys that an operator let go on by cancelling what they waited for.

        With many blocked keys this takes a while, so it is done the less often the longer it takes.
        """
        began = time.monotonic()
        blocked = self.delivery.blocked
        if not blocked or began < self._next_reread:
            return
        blocked.reload(self.lease.partitions)
        if release_unblocked(self.rows, self.lease, blocked, self.watermark):
            self.delivery.doubts.look_again()
        now = time.monotonic()
        self._next_reread = now + max(TICK_SECONDS, REREAD_SHARE * (now - began))

    def _after(self, report: Report, seconds: float) -> None:
        """Draw the conclusions of a delivery for the circuit and for the keys that waited."""
        if report.unavailable:
            self._note_failure(report.unavailable, report)
        elif report.handed:
            self._note_available()
        self._show_circuit()
        if report.found_work:
            self._next_full_turn = min(self._next_full_turn, self._next_tick)
            self._history.note(report)
            log_delivery(report, self.alias, self.lease.relay_id)
            self._announce(report, seconds)
        blocked = self.delivery.blocked
        done = [key for key in report.keys_done if key in blocked]
        if done and release_unblocked(self.rows, self.lease, blocked, self.watermark, done):
            self.delivery.doubts.look_again()

    def _announce(self, report: Report, seconds: float) -> None:
        if not batch_settled.has_listeners(DeliveryLoop):
            return
        self.runner.run(
            batch_settled.send_robust,
            sender=DeliveryLoop,
            backend=self.alias,
            relay=self.lease.relay_id,
            report=report,
            seconds=seconds,
            circuit_is_open=not self.circuit.is_closed,
        )

    def _note_failure(self, error: DeliveryError, report: Report) -> None:
        """Draw the conclusion of a failure: an outage, or doubt where others get through.

        A visitor is gone before a pause is over, so it tries others at once in any case.
        """
        if report.published:
            self._note_available()
        if self.circuit.is_closed and (
            report.published or report.is_repeat or not self._takes_share
        ):
            self.circuit.failed(at_least=error.retry_after, doubted=True)
        else:
            doubted = self.circuit.is_doubted and report.is_repeat
            self._note_unavailable(error, doubted=doubted)

    def _note_unavailable(self, error: DeliveryError, *, doubted: bool = False) -> None:
        if self._circuit_error is None:
            logger.warning(
                "backend %r is unavailable, its events wait: %s",
                self.alias,
                error,
                extra={"backend": self.alias, "relay": self.lease.relay_id},
            )
        self.circuit.failed(at_least=error.retry_after, doubted=doubted)
        self._circuit_error = self._circuit_error or kept(error)

    def _note_available(self) -> None:
        if self._circuit_error is not None:
            extra = {"backend": self.alias, "relay": self.lease.relay_id}
            logger.warning("backend %r is available again", self.alias, extra=extra)
        self.circuit.succeeded()
        self._circuit_error = None

    def _ask_broker(self) -> None:
        """Find out whether the broker is back, where there is no event that would show it.

        What waited may have been cancelled, or belong to another relay by now.
        """
        self.activity.begin("asking whether the broker is back")
        if self.backend_runner.run(self.backend.health_check):
            self._note_available()
        else:
            self.circuit.failed()

    def _show_circuit(self) -> None:
        """Let the dashboard see the circuit: a statement when it opens, and one when it closes."""
        if self._circuit_error != self._circuit_shown:
            self.lease.show_circuit(self._circuit_error)
            self._circuit_shown = self._circuit_error

    def _allowance(self, limit: int) -> int:
        """Return how many events may go now: none if paused, or what the circuit lets through."""
        if self.is_paused:
            return 0
        allowed = self.circuit.allowance(limit)
        return allowed if allowed and (self._is_open or self._open()) else 0

    def _open(self) -> bool:
        self.activity.begin("connecting to the broker")
        try:
            with hiding():
                self.backend_runner.run(self.backend.open)
        except BackendConfigurationError:
            raise
        except Exception as error:
            self._note_unavailable(as_delivery_error(error))
            return False
        self._is_open = True
        self._note_available()  # where nothing is to be sent, nothing else would show it
        return True
