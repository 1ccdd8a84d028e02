"""A relay's work besides deliveries, twice a second: rebalance, promote, schedule, purge."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from threading import Event
from time import monotonic

from .broker import Broker
from .health import Activity
from .history import History
from .lease import Lease
from .operations import Operations
from .owned import Owned
from .purging import Purge
from .scheduling import Scheduling
from .separate_thread import Runner
from .summary import Summary
from .verdicts import Report

logger = logging.getLogger("django_broadcaster.relay")

TICK_SECONDS = 0.5
"""Seconds between rounds, so that free partitions are taken well within a second also where no
NOTIFY announces them."""

FRESH_SECONDS = 1.2
"""Seconds since the last look at the relays, partitions and pauses for which a delivery may go
before the next rounds. An idle relay looks once a second."""

IDLE_SECONDS = 20.0
"""Seconds between rounds of a relay that has been idle for a while."""

REREAD_SHARE = 100
"""The pause after reading all blocked keys, as a multiple of the time that it took."""


class Rounds:
    """The schedule of this work, and operations in the background."""

    def __init__(
        self,
        lease: Lease,
        broker: Broker,
        runner: Runner,
        activity: Activity,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.are_wanted = Event()
        """Set from another thread when relays came or went: rounds are due in the next turn."""
        self.history = History(lease.using, lease.alias, clock)
        self.operations = Operations(lease.using, runner, clock)
        self.is_paused = False
        self._lease = lease
        self._broker = broker
        self._activity = activity
        self._clock = clock
        self._purge = Purge(lease.using, lease.alias, runner, lease.clock, monotonic=clock)
        self._scheduling = Scheduling(lease.using, lease.alias, runner, lease.clock, clock)
        self._summary = Summary(lease.alias, clock)
        self._relays_known = 0
        self._looked_at = -FRESH_SECONDS
        self._next_at = 0.0
        self._next_when_idle = 0.0
        self._next_reread = 0.0
        self._steps: Iterator[None] | None = None

    def restart(self) -> None:
        """Let rounds be due now, with everything read again."""
        self._next_at = self._next_when_idle = self._next_reread = 0.0
        self._looked_at = -FRESH_SECONDS
        self._steps = None

    def can_wait(self) -> bool:
        """Return True if a delivery may go before rounds that are due."""
        return not self.are_wanted.is_set() and self._clock() < self._looked_at + FRESH_SECONDS

    def run(self, owned: Owned, *, found_work: bool, is_wanted: Callable[[], bool]) -> None:
        """Do what is due; raises LeaseLost and the database's errors.

        If `is_wanted` returns True after a step, the next call continues with the step after it.
        """
        steps, self._steps = self._steps, None
        if self.are_wanted.is_set() or (steps is None and self._clock() >= self._next_at):
            self.are_wanted.clear()  # before the round, not to miss what comes meanwhile
            steps = self._round(owned)
        for _ in steps or ():
            if is_wanted() and self.can_wait():
                self._steps = steps
                return
        if self._operates and self.operations.is_due:
            self._activity.begin("moving events for an operator")
            self.operations.run(idle=not found_work)

    def can_skip(self, owned: Owned) -> bool:
        """Return True if an idle relay has nothing to do, which one statement shows."""
        if self._clock() >= self._next_when_idle:
            return False
        pulse = owned.rows.pulse(owned.partitions, owned.watermark.start)
        changed = pulse.relays != self._relays_known or pulse.overdue or pulse.free_partitions
        changed = changed or pulse.is_paused != self.is_paused
        self._relays_known = pulse.relays
        self._looked_at = -FRESH_SECONDS if changed else self._clock()
        if changed:
            self._next_at = 0.0
        waits = pulse.pending or pulse.due or owned.watermark.has_again
        operates = pulse.operation and self._operates
        return not (changed or operates or (waits and not self.is_paused))

    def add(self, report: Report) -> None:
        """Add the figures of a delivery, and let the next round be soon."""
        self.history.add(report)
        self._summary.add(report)
        self._next_when_idle = min(self._next_when_idle, self._next_at)

    def end(self) -> None:
        """Write the last figures."""
        self.history.write(counts=False)
        if self._lease.takes_share:
            self._summary.end(self._lease.id, self.history.backlog)

    @property
    def is_operating(self) -> bool:
        """Whether this relay moves events for an operation in the background."""
        return self._operates and self.operations.is_moving

    @property
    def _operates(self) -> bool:
        # Not in a process that only visits: it may be that of a request.
        return self._lease.takes_share and 0 in self._lease.partitions

    def _round(self, owned: Owned) -> Iterator[None]:
        """Do one round, a step at a time."""
        self._check_pause(owned)
        yield
        owned.rebalance()
        yield
        self._reread_blocked(owned)  # before the promotion, after which a key waits for nothing
        more = owned.promote()
        yield
        is_purger = 0 in owned.partitions
        if self._operates and not self.is_paused:  # or they would pile up until it is resumed
            self._scheduling.run()
        if is_purger:
            self._activity.begin("purging old events")
            self._purge.run()
            yield
        self._broker.show()
        circuit = self._broker.circuit
        self.history.run(
            counts=is_purger, circuit_is_open=not circuit.is_closed, is_paused=self.is_paused
        )
        if self._lease.takes_share:
            self._summary.run(self._lease.id, self.history.backlog)
        self._looked_at = now = self._clock()
        self._next_at = now + (0 if more else TICK_SECONDS)
        if is_purger and self._purge.is_behind:
            self._next_when_idle = self._next_at
        elif owned.blocked or self.history.has_news or not circuit.is_closed:
            # The statement of an idle relay shows none of these.
            self._next_when_idle = now + min(IDLE_SECONDS, self._lease.seconds / 2)
        else:
            self._next_when_idle = now + IDLE_SECONDS
        yield

    def _check_pause(self, owned: Owned) -> None:
        was_paused, self.is_paused = self.is_paused, owned.rows.is_paused()
        if was_paused != self.is_paused:
            logger.warning(
                "Backend %r is paused; its events wait."
                if self.is_paused
                else "Backend %r is resumed.",
                self._lease.alias,
                extra=self._lease.log_extra,
            )

    def _reread_blocked(self, owned: Owned) -> None:
        """Find the keys that no longer wait because an operator cancelled an event.

        With many blocked keys this takes a while: the longer it takes, the less often it is done.
        """
        began = self._clock()
        if not owned.blocked or began < self._next_reread:
            return
        owned.blocked.reload(owned.partitions)
        owned.release()
        now = self._clock()
        self._next_reread = now + max(TICK_SECONDS, REREAD_SHARE * (now - began))
