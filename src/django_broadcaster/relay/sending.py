"""The step of a delivery that sends: it finds one outcome for each event, whatever happens."""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Sequence
from dataclasses import replace

from django_broadcaster import tracing
from django_broadcaster.backends.base import MessageBackend, Outcome, as_delivery_error
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    BackendUnavailable,
    DeliveryError,
    Held,
)
from django_broadcaster.redaction import masking_errors
from django_broadcaster.store import PendingRow

from .batch import Batch
from .decryption import decrypted
from .log_safety import loggable_traceback
from .owned import Owned
from .row_to_message import message_of
from .separate_thread import Runner

logger = logging.getLogger("django_broadcaster.relay")

_FAILURES = (Exception, SystemExit, CancelledError)
"""Errors that an attempt may raise: a handler that exits must not end the relay."""


class Sender:
    """Gives the batches of one lease to its backend."""

    def __init__(self, owned: Owned, backend: MessageBackend, runner: Runner) -> None:
        self._owned = owned
        self._backend = backend
        self._runner = runner

    def send(self, batch: Batch) -> Batch:
        """Send what was selected, and return the batch with one outcome for each row.

        Raises:
            LeaseLost: The lease was taken away; nothing was sent after that.
            BackendConfigurationError: The backend can't work with its settings.
        """
        send = self._read_again(batch.send) if batch.has_suspect else batch.send
        if not send:
            return replace(batch, send=send)
        lease = self._owned.lease
        # Before the lease is checked: another thread may end it just after that.
        lease.in_doubt = self._backend.keeps_positions
        lease.begin_delivery([row.id for row in send])
        self._backend.unsettled = self._owned.locked.delivered
        ready, failed = decrypted(send)
        outcomes = self._send_together(ready)
        if failed:
            others = iter(outcomes)
            outcomes = [failed[row.id] if row.id in failed else next(others) for row in send]
        return replace(batch, send=send, outcomes=outcomes, handed=len(ready))

    def _read_again(self, rows: Sequence[PendingRow]) -> Sequence[PendingRow]:
        """Return the suspect if it is still pending: it may have waited for its turn."""
        (row,) = rows
        self._owned.fetcher.take_one()  # the next one may be a suspect, too
        return self._owned.rows.fetch_by_id({row.partition}, [row.id]).rows

    def _send_together(self, rows: Sequence[PendingRow]) -> Sequence[Outcome]:
        if not rows:
            return []
        if len(rows) == 1:
            return [self._send_alone(rows[0])]
        try:
            return self._hand_over(rows)
        except BackendUnavailable as error:
            return [error] * len(rows)
        except BackendConfigurationError:
            raise
        except _FAILURES as error:
            logger.warning(
                "Backend %r raised an unexpected error for a batch; retrying its events one at a "
                "time.",
                self._backend.alias,
                extra=self._owned.lease.log_extra,
                exc_info=loggable_traceback(error),
            )
            return self._send_one_by_one(rows)

    def _send_alone(self, row: PendingRow) -> Outcome:
        try:
            return self._hand_over([row])[0]
        except BackendConfigurationError:
            raise
        except _FAILURES as error:
            return as_delivery_error(
                error
                if isinstance(error, Exception)
                else RuntimeError(f"{type(error).__name__}: {error}")
            )

    def _send_one_by_one(self, rows: Sequence[PendingRow]) -> Sequence[Outcome]:
        """Find the event that made a batch fail, so that the others lose no attempt.

        Raises LeaseLost.
        """
        outcomes: list[Outcome] = []
        failed_keys: set[str] = set()
        for row in rows:
            if row.partition_key in failed_keys:
                outcomes.append(Held())
                continue
            self._owned.lease.renew_if_expired()  # the relay may have stalled in between
            self._backend.on_progress()
            outcome = self._send_alone(row)
            if isinstance(outcome, BackendUnavailable):
                return [*outcomes, *[outcome] * (len(rows) - len(outcomes))]
            if outcome is not None and row.partition_key:
                failed_keys.add(row.partition_key)
            outcomes.append(outcome)
        return outcomes

    def _hand_over(self, rows: Sequence[PendingRow]) -> Sequence[Outcome]:
        """Call the backend; raises what it raises."""
        messages = [message_of(row) for row in rows]
        with tracing.sending(self._backend, messages) as note:
            with masking_errors():
                outcomes = self._runner.run(self._backend.send_batch, messages)
            if len(outcomes) != len(rows):
                raise RuntimeError(
                    f"the backend returned {len(outcomes)} outcomes for {len(rows)} messages"
                )
            outcomes = [each if each is None else _as_error(each) for each in outcomes]
            if note is not None:
                note(outcomes)
        return outcomes


def _as_error(outcome: object) -> DeliveryError:
    """Return an outcome that is an error as one of ours; raises RuntimeError for anything else."""
    if isinstance(outcome, Exception):
        return as_delivery_error(outcome)
    raise RuntimeError(f"the backend returned an outcome of type {type(outcome).__name__}")
