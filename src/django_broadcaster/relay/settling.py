"""The step of a delivery that writes down what became of its rows.

What the database does not accept is kept and settled later: to send it again instead would repeat
it for as long as the disk is full.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from django_broadcaster.backends.handler import backends
from django_broadcaster.redaction import error_text

from .announcing import Announcer
from .batch import Batch
from .failure_log import FailureLog
from .owned import Owned
from .separate_thread import Runner
from .verdicts import Report, Verdicts, spends_retry

logger = logging.getLogger("django_broadcaster.relay")

LOCKED_PAUSE = 0.1
"""Seconds between attempts to settle locked events while the relay stops."""


class Settler:
    """Settles the deliveries of one lease; each statement is fenced by the lease."""

    def __init__(self, owned: Owned, runner: Runner, failure_log: FailureLog) -> None:
        self._owned = owned
        self._runner = runner
        self._failure_log = failure_log
        self._announcer = Announcer(owned.lease.using)
        self._interrupted: Batch | None = None

    @property
    def is_interrupted(self) -> bool:
        """Whether a delivery is left that the database did not let settle."""
        return self._interrupted is not None

    def settle(self, batch: Batch) -> Report:
        """Write the verdicts, and return the delivery in figures.

        Published events go first: if the relay crashes in between, the others are retried. Each
        statement changes rows that are still pending, so all of them may be repeated.

        Raises:
            LeaseLost: Too few rows were changed, because the lease was taken away.
            django.db.Error: The database failed; `settle_interrupted` continues.
        """
        owned, verdicts = self._owned, batch.verdicts
        self._interrupted = batch
        self._announcer.read_events(verdicts)
        changed = self._write(verdicts)
        if not batch.attempts_are_recorded:
            self._record_attempts(verdicts)
            self._interrupted = batch = replace(batch, attempts_are_recorded=True)
        report = batch.report()
        if changed < report.settled or verdicts.unavailable:
            # An operator cancelled or locked some, some stay pending, or the lease was lost.
            owned.lease.end_delivery()
            owned.locked.keep(verdicts)
        if not verdicts.unavailable and not owned.locked:
            owned.lease.in_doubt = False
        owned.blocked.add(row for row, _, _ in verdicts.retry)
        owned.postponed.add(verdicts.postponed)
        self._interrupted = None
        self._failure_log.write(verdicts, owned.lease.id)
        if self._announcer.has_news:
            self._runner.run(self._announcer.announce, verdicts)
        return report

    def settle_interrupted(self) -> Report | None:
        """Settle the delivery that the database did not let settle; None if there is none."""
        return self.settle(self._interrupted) if self._interrupted else None

    def settle_locked(self) -> None:
        """Settle the events whose rows another transaction had locked, if it is time to."""
        self._owned.locked.settle(self._write, self._owned.partitions)

    def wait_for_locked(self, seconds: float) -> None:
        """Settle the locked events before the lease ends; give up after `seconds`.

        Otherwise they would be delivered again. Raises LeaseLost.
        """
        lease, locked = self._owned.lease, self._owned.locked
        deadline = time.monotonic() + seconds
        while locked and time.monotonic() < deadline:
            lease.renew()
            locked.settle(self._write, self._owned.partitions, at_once=True)
            if locked:
                time.sleep(LOCKED_PAUSE)
        if locked:
            logger.warning(
                "Could not settle %d events of backend %r within %s s: another transaction still "
                "has their rows locked; delivering them again later.",
                len(locked),
                lease.alias,
                seconds,
                extra=lease.log_extra,
            )

    def _write(self, verdicts: Verdicts) -> int:
        """Change the rows of pending events by their verdicts; return how many were changed."""
        rows = self._owned.rows
        published = [row.id for row in verdicts.published]
        keep = backends.retention(self._owned.lease.alias).keeps_published
        changed = rows.mark_published(published, keep=keep) if published else 0
        if verdicts.retry:
            failures = [
                (row.id, delay, error_text(error), int(spends_retry(error)))
                for row, delay, error in verdicts.retry
            ]
            changed += rows.retry(failures)
        if verdicts.dead_letter:
            changed += rows.dead_letter(
                [(row.id, error_text(error)) for row, error in verdicts.dead_letter]
            )
        if verdicts.expire:
            changed += rows.expire([row.id for row in verdicts.expire])
        if verdicts.hold:
            changed += rows.block([row.id for row in verdicts.hold])
        return changed

    def _record_attempts(self, verdicts: Verdicts) -> None:
        """Write down the failed attempts, which the pages and commands about the event show."""
        tried = [(row, error) for row, _, error in verdicts.retry if error.sent]
        failed = tried + verdicts.dead_letter
        if failed:
            attempts = [(row.id, row.retry_count + 1, error_text(error)) for row, error in failed]
            self._owned.rows.record_attempts(self._owned.lease.name, attempts)
