"""The step of a delivery that decides by each outcome what becomes of the row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from django_broadcaster.exceptions import (
    AfterCommitFailed,
    BackendUnavailable,
    DeliveryError,
    Held,
    Rejected,
    TransientError,
)
from django_broadcaster.redaction import mask_error
from django_broadcaster.retry import RetryPolicy
from django_broadcaster.store import PendingRow

from .batch import Batch
from .doubts import LoneFailure
from .owned import Owned
from .poison import crash_error
from .postponed import POSTPONE_SECONDS, PROBES
from .verdicts import Verdicts, spends_retry


class Judge:
    """Applies the retry policy of one backend to the batches of one lease."""

    def __init__(self, owned: Owned, policy: RetryPolicy, *, blocks_when_exhausted: bool) -> None:
        self._owned = owned
        self._policy = policy
        self._blocks_when_exhausted = blocks_when_exhausted

    def judge(self, batch: Batch) -> Batch:
        """Return the batch with its verdicts; raises the database's errors."""
        verdicts = Verdicts(hold=[*batch.hold], expire=[*batch.expired])
        self._judge_outcomes(batch, verdicts)
        verdicts.dead_letter += [(row, crash_error(row)) for row in batch.poison]
        others = self._judge_alone(batch, verdicts)
        return replace(batch, verdicts=verdicts, others=others)

    def _judge_outcomes(self, batch: Batch, verdicts: Verdicts) -> None:
        failed_keys: set[str] = set()
        retried_keys: set[str] = set()
        unsent: Counter[str] = Counter()
        for row, outcome in zip(batch.send, batch.outcomes, strict=True):
            if outcome is None:
                verdicts.published.append(row)
                continue
            mask_error(outcome)  # before it is stored or logged
            if isinstance(outcome, BackendUnavailable):
                verdicts.unavailable = outcome
                if verdicts.first_unavailable is None and outcome.sent:
                    verdicts.first_unavailable = row, outcome
            elif isinstance(outcome, Held) and not row.partition_key and _has_begun(batch):
                continue  # its backend leaves it to the next batch, and it stays pending
            elif isinstance(outcome, Held) and row.partition_key in failed_keys:
                # After an event that was given up, it stays pending and is next.
                if row.partition_key in retried_keys or self._owned.blocked.blocks(row):
                    verdicts.hold.append(row)
            elif self._judge_failure(verdicts, row, outcome, unsent):
                retried_keys.add(row.partition_key)
            if row.partition_key:
                failed_keys.add(row.partition_key)

    def _judge_failure(
        self,
        verdicts: Verdicts,
        row: PendingRow,
        error: DeliveryError,
        unsent: Counter[str],
        *,
        unspent: int = 0,
    ) -> bool:
        """Decide whether and when a failed event is retried; return True if it is.

        Args:
            verdicts: The verdict is added to these.
            row: The event.
            error: Its error.
            unsent: The number of events that were not sent, by destination; is counted up.
            unspent: The number of earlier failures that spent no retry.
        """
        delay = self._delay(row, error, unspent)
        if delay is None:
            verdicts.dead_letter.append((row, error))
            return False
        delay = max(delay, error.retry_after)
        destination = error.waits_for if isinstance(error, TransientError) else ""
        if destination:
            unsent[destination] += 1
            has_room = self._owned.postponed.has_room_for(len(verdicts.postponed) + 1)
            if unsent[destination] > PROBES and has_room:
                verdicts.postponed.append((destination, row.id))
                delay = max(delay, POSTPONE_SECONDS)
        verdicts.retry.append((row, delay, error))
        return True

    def _delay(self, row: PendingRow, error: DeliveryError, unspent: int) -> float | None:
        """Return the seconds until the next attempt; None if there is none."""
        delay = None
        if not isinstance(error, Rejected):
            allowed = row.max_retries if spends_retry(error) else None
            delay = self._policy.delay(row.retry_count + 1 + unspent, allowed)
            if delay is not None and error.delay is not None:
                delay = error.delay
        may_block = self._blocks_when_exhausted and not isinstance(error, AfterCommitFailed)
        return self._policy.maximum if delay is None and may_block else delay

    def _judge_alone(self, batch: Batch, verdicts: Verdicts) -> int:
        """Judge events that fail while others are delivered; return how many were not fetched.

        If several events fail so, a part of the broker may be unavailable: none spends a retry.
        """
        doubts = self._owned.doubts
        alone = doubts.update(verdicts.published, verdicts.first_unavailable)
        judged = {row.id for row in verdicts.rows} if alone else set()
        failures = {each.row.id: each for each in alone if each.row.id not in judged}
        # Read again: an operator may have cancelled them meanwhile.
        rows: Sequence[PendingRow] = ()
        if failures:
            rows = self._owned.fetcher.fetch_fitting(self._owned.partitions, failures)[0].rows
        for row in rows:
            failure = failures[row.id]
            unspent = failure.charges if failure.is_part else 0
            self._judge_failure(verdicts, row, _error_of(failure), Counter(), unspent=unspent)
        for row, _ in verdicts.dead_letter:
            doubts.forget(row)
        fetched = {row.id for row in batch.rows} if rows else set()
        return sum(row.id not in fetched for row in rows)


def _has_begun(batch: Batch) -> bool:
    """Return True if the backend did not hold back every event."""
    return not all(isinstance(outcome, Held) for outcome in batch.outcomes)


def _error_of(failure: LoneFailure) -> DeliveryError:
    """Return the error of an event that alone fails as if the broker were unavailable."""
    error = TransientError(
        f"{failure.error} ({failure.count} times, while other events were delivered)",
        retry_after=failure.error.retry_after,
        spends_retry=not failure.is_part,
    )
    error.__cause__ = failure.error.__cause__
    error.reason, error.details = failure.error.reason, failure.error.details
    error.handlers = failure.error.handlers
    return error
