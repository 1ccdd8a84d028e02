"""One delivery: a batch of one backend goes through fetch, select, publish, judge and settle.

No loop and no sleep is here: `loop.py` calls `deliver` for as long as there is something to do.
Each step takes what the step before returned and can be tested alone. A crash between any two of
them loses nothing, for a row leaves `pending` only when it is settled.
"""

from __future__ import annotations

import logging
import time
from asyncio import CancelledError
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime

import orjson

from django_broadcaster import tracing
from django_broadcaster.backends.base import Message, MessageBackend, Outcome, as_delivery_error
from django_broadcaster.backends.handler import backends
from django_broadcaster.conf import conf
from django_broadcaster.events.timestamps import in_utc
from django_broadcaster.exceptions import (
    AfterCommitFailed,
    BackendConfigurationError,
    BackendUnavailable,
    DeliveryError,
    Held,
    Rejected,
    TransientError,
)
from django_broadcaster.redaction import hide, hiding, kept
from django_broadcaster.retry import RetryPolicy
from django_broadcaster.store import DatabaseClock, Fetched, Head, PendingRow, RelayRows

from . import poison
from .announcing import Announcer, log_failures
from .blocked_keys import BlockedKeys
from .decryption import decrypted
from .doubts import Doubts, Failure
from .fetching import Fetcher
from .lease import Lease
from .locked import LockedEvents
from .log_safety import loggable_traceback
from .separate_thread import Runner
from .verdicts import Report, Verdicts, spends_retry
from .waiting import WAIT_SECONDS, Waiting

logger = logging.getLogger("django_broadcaster.relay")

NONE: frozenset[int] = frozenset()

HASTEN_SECONDS = 1.0
"""Seconds between attempts to make events due whose rows another transaction has locked."""

LOCKED_PAUSE = 0.1
"""Seconds between attempts to settle locked events where the relay waits for them to end."""

LOOK_SECONDS = 0.5
"""Seconds between looks at all pending events, where those of other keys have failed."""

LOOK_SHARE = 100
"""How many times as long as such a look takes goes by until the next."""

PICKS = 20
"""Queries for a probe where keys have many events, besides one for each of its events."""


@dataclass(slots=True)
class Selection:
    """What a fetched batch falls into: to send, to hold behind its key, to give up, too late."""

    send: list[PendingRow] = field(default_factory=list)
    hold: list[PendingRow] = field(default_factory=list)
    poison: list[PendingRow] = field(default_factory=list)
    expired: list[PendingRow] = field(default_factory=list)

    @property
    def has_suspect(self) -> bool:
        """Whether the event to send was in flight when its relay died; it is then the only one."""
        return bool(self.send and self.send[0].crash_count)


class Delivery:
    """Delivers batches to one backend on behalf of one lease."""

    def __init__(
        self,
        rows: RelayRows,
        lease: Lease,
        backend: MessageBackend,
        policy: RetryPolicy,
        runner: Runner,
        backend_runner: Runner,
        *,
        blocks_when_exhausted: bool,
    ) -> None:
        self.rows = rows
        self.lease = lease
        self.backend = backend
        self.policy = policy
        self.runner = runner
        self.backend_runner = backend_runner
        self.blocks_when_exhausted = blocks_when_exhausted
        self.blocked = BlockedKeys(rows)
        self.locked = LockedEvents(rows, self.blocked)
        self.waiting = Waiting()
        self.doubts = Doubts(in_parts=backend.may_be_away_in_part)
        self.announcer = Announcer(lease.using)
        self.fetcher = Fetcher(rows)
        self._unsettled: tuple[Verdicts, int] | None = None
        self._handed = 0
        self._is_repeat = False
        self._sent: Sequence[PendingRow] = ()
        self._hastens_at = 0.0
        self._looks_at_all_at = 0.0

    def deliver(
        self,
        limit: int,
        start: int,
        partitions: Collection[int],
        again: Collection[int] = (),
        *,
        only_again: bool = False,
        timed: bool = False,
    ) -> Report:
        """Deliver at most `limit` pending events from id `start` on, and say what came of it.

        Those of `again`, which are at most `limit` ids below `start`, come first; with `only_again`
        there are more of these, and nothing behind `start` is fetched, nor is it where they are too
        large for one batch. If it is `timed`, the report
        says how long those behind `start` had been due. Raises
        LeaseLost, after which what was not settled is delivered again by whoever owns it then, and
        the database's errors, after which `finish` goes on with it.
        """
        if self.locked.are_many:
            return Report(left=len(self.locked), exhausted=False)
        before, unseen = self.fetcher.fetch_these(partitions, again) if again else ([], NONE)
        before = [row for row in before if row.id not in self.locked]
        room = 0 if only_again or unseen else limit - len(before)
        behind = Fetched()
        if room:
            behind = self.fetcher.fetch(partitions, start, room, beside=before, timed=timed)
        return replace(
            self._deliver([*before, *behind.rows], behind.due),
            gone=frozenset(again) - unseen - {row.id for row in before},
            unseen=unseen,
            last=behind.rows[-1].id if behind.rows else 0,
            exhausted=len(behind.rows) < room and not behind.is_cut,
        )

    def probe(self, limit: int, partitions: Collection[int], *, repeats: bool) -> Report | None:
        """Deliver at most `limit` events, one of each key, to see whether the broker is back.

        Keys of which nothing has failed yet go first. When all failed, they start over, if
        `repeats`. Return None if nothing is pending. Raises as `deliver` does.
        """
        if repeats:
            self.doubts.look_again()
        heads, held = self._pick_untried(limit, partitions)
        if repeats and not (heads or held):
            self.doubts.start_over()
            heads, held = self._pick(limit, partitions, set(), set())
            if not (heads or held):
                return None
        ids = {head.id for head in heads + held}
        rows = self.fetcher.fetch_these(partitions, ids)[0] if ids else []
        report = self._deliver(rows, {})
        if not report.published:
            self.doubts.note_probe(self._sent)
        return report

    def _pick_untried(
        self, limit: int, partitions: Collection[int]
    ) -> tuple[list[Head], list[Head]]:
        """Pick among the events that were not tried; the further on, the more were tried.

        Else a key with many events would be read as a whole each time. Transactions that commit
        late, below the start, are seen by the next look at all.
        """
        began = time.monotonic()
        start = self.doubts.passed if began < self._looks_at_all_at else 0
        last = 0 if start else self.rows.last_id()
        heads, held = self._pick(limit, partitions, *self.doubts.tried, start=start)
        if not (heads or held or start):
            self.doubts.passed = last + 1
            seconds = time.monotonic() - began
            self._looks_at_all_at = began + max(LOOK_SECONDS, LOOK_SHARE * seconds)
        return heads, held

    def _pick(
        self,
        limit: int,
        partitions: Collection[int],
        keys: set[str],
        ids: set[int],
        *,
        start: int = 0,
    ) -> tuple[list[Head], list[Head]]:
        """Return the first event of each of some keys, and some events that a key holds back.

        None is of these keys or rows, which are added to.
        """
        chosen: list[Head] = []
        held: list[Head] = []
        for _ in range(limit + PICKS):
            room = limit - len(chosen)
            found = self.rows.heads(partitions, start, room, keys, ids) if room else []
            for head in found:
                if head.partition_key not in keys:
                    (held if self.blocked.holds(head) else chosen).append(head)
                if head.partition_key:
                    keys.add(head.partition_key)
                else:
                    ids.add(head.id)
            if len(found) < room or not room:
                break
        return chosen, held

    def deliver_these(self, partitions: Collection[int], ids: Collection[int]) -> Report:
        """Deliver those of these events that are pending; raises as `deliver` does."""
        return self._deliver(self.rows.fetch_these(partitions, ids).rows, {})

    def _deliver(self, fetched: Sequence[PendingRow], due: Mapping[int, datetime]) -> Report:
        self._sent = ()
        if not fetched:
            return Report()
        selection = self.select(fetched)
        with poison.alone() if selection.has_suspect else nullcontext():
            if selection.has_suspect:  # which somebody may have cancelled while it waited
                (row,) = selection.send
                selection.send = list(self.rows.fetch_these({row.partition}, [row.id]).rows)
                self.fetcher.take_one()  # the next one may be a suspect, too
            report, others = self._send_and_settle(selection, due)
        return replace(report, left=len(fetched) + others - report.settled)

    def _send_and_settle(
        self, selection: Selection, due: Mapping[int, datetime]
    ) -> tuple[Report, int]:
        """Return the report, and how many rows of it were not in the selection."""
        selection.send = self.doubts.last(selection.send)
        self._is_repeat = all(map(self.doubts.has, selection.send))
        self._handed = 0
        self._sent = selection.send
        outcomes = self.publish(selection.send)
        verdicts = self.judge(selection.send, outcomes)
        others = self._judge_alone(verdicts, {row.id for row in selection.send})
        verdicts.due = due
        verdicts.hold += selection.hold
        verdicts.expire += selection.expired
        verdicts.bury += [(row, _crashed(row)) for row in selection.poison]
        return self.settle(verdicts, attempted=len(selection.send)), others

    def select(self, fetched: Sequence[PendingRow]) -> Selection:
        """Choose what to send: nothing behind a blocked key, nothing expired, a suspect alone.

        A suspect was in flight when its relay died. Sent alone, it shows whether it was the one.
        """
        selection = Selection()
        for row in fetched:
            if self.blocked.holds(row):
                selection.hold.append(row)
            elif has_expired(row, self.rows.clock):
                selection.expired.append(row)
            elif not row.crash_count:
                selection.send.append(row)
            elif row.crash_count >= conf.MAX_CRASHES:
                selection.poison.append(row)
                break  # its key goes on behind it, from the next fetch
            else:
                if not selection.send:
                    selection.send.append(row)
                break
        return selection

    def publish(self, batch: Sequence[PendingRow]) -> Sequence[Outcome]:
        """Hand the batch to the backend; return one outcome for each row, whatever it raises.

        Raises BackendConfigurationError, for which no event is to blame, and LeaseLost.
        """
        if not batch:
            return []
        self.lease.begin([row.id for row in batch])
        opened, shut = decrypted(batch)
        self._handed = len(opened)
        if not shut:
            return self._publish(opened)
        outcomes = iter(self._publish(opened))
        return [shut[row.id] if row.id in shut else next(outcomes) for row in batch]

    def _publish(self, batch: Sequence[PendingRow]) -> Sequence[Outcome]:
        if not batch:
            return []
        if len(batch) == 1:
            return [self._send_one(batch[0])]
        try:
            return self._send(batch)
        except BackendUnavailable as error:
            return [error] * len(batch)
        except BackendConfigurationError:
            raise
        except _FAILURES as error:
            logger.warning(
                "backend %r broke on a batch, whose events are sent again one by one",
                self.backend.alias,
                extra={"backend": self.backend.alias, "relay": self.lease.relay_id},
                exc_info=loggable_traceback(error),
            )
            return self._send_singly(batch)

    def _send(self, batch: Sequence[PendingRow]) -> Sequence[Outcome]:
        messages = [message_of(row) for row in batch]
        with tracing.sending(self.backend, messages) as note:
            with hiding():
                outcomes = self.backend_runner.run(self.backend.send_batch, messages)
            if len(outcomes) != len(batch):
                raise RuntimeError(f"the backend gave {len(outcomes)} outcomes for {len(batch)}")
            outcomes = [each if each is None else _as_error(each) for each in outcomes]
            if note is not None:
                note(outcomes)
        return outcomes

    def _send_one(self, row: PendingRow) -> Outcome:
        try:
            return self._send([row])[0]
        except BackendConfigurationError:
            raise
        except _FAILURES as error:
            return _blamed(error)

    def _send_singly(self, batch: Sequence[PendingRow]) -> Sequence[Outcome]:
        """Find the event at fault for a batch that broke, so that the others lose no attempt.

        Raises LeaseLost.
        """
        outcomes: list[Outcome] = []
        failed_keys: set[str] = set()
        for row in batch:
            if row.partition_key in failed_keys:
                outcomes.append(Held("an earlier event of its key failed in this batch"))
                continue
            self.lease.require()  # it may have stalled in between
            self.backend.on_progress()
            outcome = self._send_one(row)
            if isinstance(outcome, BackendUnavailable):
                return [*outcomes, *[outcome] * (len(batch) - len(outcomes))]
            if outcome is not None and row.partition_key:
                failed_keys.add(row.partition_key)
            outcomes.append(outcome)
        return outcomes

    def judge(self, batch: Sequence[PendingRow], outcomes: Sequence[Outcome]) -> Verdicts:
        """Decide by each outcome what becomes of its row."""
        verdicts = Verdicts()
        failed_keys: set[str] = set()
        self.waiting.begin()
        for row, outcome in zip(batch, outcomes, strict=True):
            if outcome is None:
                verdicts.published.append(row)
                continue
            hide(outcome)  # before anybody keeps or tells it
            if isinstance(outcome, BackendUnavailable):
                verdicts.unavailable = outcome
                if verdicts.first_unavailable is None and outcome.sent:
                    verdicts.first_unavailable = row, outcome
            elif isinstance(outcome, Held) and row.partition_key in failed_keys:
                # Behind an event that was given up, it stays pending and is next.
                if self.blocked.holds(row):
                    verdicts.hold.append(row)
            else:
                self._judge_failure(verdicts, row, outcome)
            if row.partition_key:
                failed_keys.add(row.partition_key)
        return verdicts

    def _judge_failure(
        self, verdicts: Verdicts, row: PendingRow, error: DeliveryError, rounds: int = 0
    ) -> None:
        """Decide when a failed event is tried again; `rounds` are failures that cost no retry."""
        delay = None
        if not isinstance(error, Rejected):
            allowed = row.max_retries if spends_retry(error) else None
            delay = self.policy.delay(row.retry_count + 1 + rounds, allowed)
        may_wait = self.blocks_when_exhausted and not isinstance(error, AfterCommitFailed)
        if delay is None and may_wait:
            delay = self.policy.maximum
        if delay is None:
            verdicts.bury.append((row, error))
        else:
            delay = max(delay, error.retry_after)
            waits_for = error.waits_for if isinstance(error, TransientError) else ""
            if waits_for and self.waiting.add(waits_for, row.id):
                delay = max(delay, WAIT_SECONDS)
            verdicts.retry.append((row, delay, error))
            self.blocked.add(row)

    def _judge_alone(self, verdicts: Verdicts, batch: Collection[int]) -> int:
        """Charge events for failing while others get through; return how many are not of the batch.

        Where several events fail so, a part of the broker may be away: then none spends a retry.
        """
        alone = self.doubts.note(verdicts.published, verdicts.first_unavailable)
        failures = {each.row.id: each for each in alone}
        for row_id in verdicts.failed_ids():  # by themselves this time
            failures.pop(row_id, None)
        partitions = self.lease.partitions
        # Read again: somebody may have cancelled them meanwhile.
        rows = self.fetcher.fetch_these(partitions, failures)[0] if failures else []
        for row in rows:
            failure = failures[row.id]
            rounds = failure.rounds if failure.is_part else 0
            self._judge_failure(verdicts, row, _as_its_own(failure), rounds)
        for row, _ in verdicts.bury:
            self.doubts.forget(row)
        return sum(row.id not in batch for row in rows)

    def settle(self, verdicts: Verdicts, attempted: int) -> Report:
        """Write the verdicts back, fenced by the lease; raises LeaseLost if it changed too little.

        What was published goes first: were the relay to die in between, the rest is tried again.
        Each change is of rows that are still pending, so that all of it may be repeated.
        """
        self._unsettled = (verdicts, attempted)
        self.announcer.prepare(verdicts)
        changed = self._write(verdicts)
        if not verdicts.are_noted:
            self._note_attempts(verdicts)
            verdicts.are_noted = True
        report = replace(
            Report.of(verdicts, attempted), is_repeat=self._is_repeat, handed=self._handed
        )
        if changed < report.settled or verdicts.unavailable:
            # An operator cancelled or locked some, some stay pending, or the lease was lost.
            self.lease.give_back()
            self.locked.keep(verdicts)
        self._unsettled = None
        log_failures(verdicts, self.backend.alias, self.lease.relay_id)
        if self.announcer.has_news:
            self.runner.run(self.announcer.announce, verdicts)
        return report

    def _write(self, verdicts: Verdicts) -> int:
        """Change the rows of pending events by their verdicts; return how many were changed."""
        published = [row.id for row in verdicts.published]
        held = [row.id for row in verdicts.hold]
        keep = backends.retention(self.backend.alias).keeps_published
        changed = self.rows.published(published, keep=keep) if published else 0
        if verdicts.retry:
            failures = [
                (row.id, delay, kept(error), int(spends_retry(error)))
                for row, delay, error in verdicts.retry
            ]
            changed += self.rows.retry(failures)
        if verdicts.bury:
            dead = [(row.id, kept(error)) for row, error in verdicts.bury]
            changed += self.rows.bury(dead)
        if verdicts.expire:
            changed += self.rows.expire([row.id for row in verdicts.expire])
        if held:
            changed += self.rows.block(held)
        return changed

    def hasten_returned(self) -> None:
        """Make events due that wait for a destination that is back; retry where a row is locked."""
        self.waiting.note_returned(self.backend.returned())
        if self.waiting.due and time.monotonic() >= self._hastens_at:
            self.locked.hasten(self.waiting.due)
            self.waiting.due = self.rows.hasten(self.waiting.due)
            self._hastens_at = time.monotonic() + HASTEN_SECONDS if self.waiting.due else 0.0

    def settle_locked(self) -> None:
        """Settle the events whose rows another transaction had locked, as far as it is time to."""
        self.locked.settle(self._write, self.lease.partitions)

    def wait_for_locked(self, seconds: float) -> None:
        """Settle the locked events before the lease ends; give up after so many seconds.

        Without this they would be delivered again. Raises LeaseLost.
        """
        deadline = time.monotonic() + seconds
        while self.locked and time.monotonic() < deadline:
            self.lease.renew()
            self.locked.settle(self._write, self.lease.partitions, at_once=True)
            if self.locked:
                time.sleep(LOCKED_PAUSE)
        if self.locked:
            logger.warning(
                "Could not settle %d events of backend %r within %s s: another transaction still "
                "has their rows locked; delivering them again later.",
                len(self.locked),
                self.backend.alias,
                seconds,
                extra={"backend": self.backend.alias, "relay": self.lease.relay_id},
            )

    @property
    def is_unsettled(self) -> bool:
        """Whether the database kept a delivery from being settled."""
        return self._unsettled is not None

    def finish(self) -> Report | None:
        """Settle the delivery that the database kept from being settled; None if there is none.

        A relay that sent it again instead would repeat it for as long as the disk is full.
        """
        return self.settle(*self._unsettled) if self._unsettled else None

    def _note_attempts(self, verdicts: Verdicts) -> None:
        """Keep what went wrong with what was sent, for who looks at the event later."""
        tried = [(row, error) for row, _, error in verdicts.retry if error.sent]
        failed = tried + verdicts.bury
        if failed:
            attempts = [(row.id, row.retry_count + 1, kept(error)) for row, error in failed]
            self.rows.note_attempts(self.lease.name, attempts)


def message_of(row: PendingRow) -> Message:
    """Return the row as a backend receives it, its data still text."""
    extensions = {} if row.extensions == "{}" else orjson.loads(row.extensions)
    if row.partition_key:
        extensions["partitionkey"] = row.partition_key
    return Message(
        row.event_id,
        row.source,
        row.event_type,
        row.subject,
        row.time,
        row.data_content_type,
        row.data_schema,
        extensions,
        row.data,
        row.data_binary,
        row.partition_key,
        {} if row.publisher_config == "{}" else orjson.loads(row.publisher_config),
        row.retry_count + 1,
    )


def has_expired(row: PendingRow, clock: DatabaseClock) -> bool:
    """Tell whether the row's event has the extension `expirytime`, and that time has passed.

    https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/expirytime.md
    """
    if '"expirytime"' not in row.extensions:  # as in nearly every event: nothing is decoded
        return False
    try:
        moment = orjson.loads(row.extensions).get("expirytime")
        return moment is not None and in_utc(moment).timestamp() <= clock.timestamp()
    except (AttributeError, TypeError, ValueError, OverflowError):  # nobody can say when: sent
        return False


_FAILURES = (Exception, SystemExit, CancelledError)
"""What a failed attempt may raise: a handler that exits must not end the relay."""


def _as_error(outcome: object) -> DeliveryError:
    """Return an outcome that is an error as one of ours; raises RuntimeError for anything else."""
    if isinstance(outcome, Exception):
        return as_delivery_error(outcome)
    raise RuntimeError(f"the backend gave an outcome that is a {type(outcome).__name__}")


def _blamed(error: BaseException) -> DeliveryError:
    """Return what came of an event that alone made its backend raise."""
    if isinstance(error, Exception):
        return as_delivery_error(error)
    return as_delivery_error(RuntimeError(f"{type(error).__name__}: {error}"))


def _as_its_own(failure: Failure) -> DeliveryError:
    """Return the error of an event that fails as if the broker were away, and is alone in that."""
    error = TransientError(
        f"{failure.error} ({failure.count} times, while other events were delivered)",
        retry_after=failure.error.retry_after,
        spends_retry=not failure.is_part,
    )
    error.__cause__ = failure.error.__cause__
    return error


def _crashed(row: PendingRow) -> DeliveryError:
    return Rejected(f"{row.crash_count} relays died one after the other while they delivered it")
