"""Deliveries in the caller's own process, for `process_pending_events` and similar calls.

Such a visitor joins like a relay, takes the partitions that no relay owns, and leaves again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from django.db import Error, connections, router, transaction

from django_broadcaster.backends.handler import backends
from django_broadcaster.backoff import Backoff
from django_broadcaster.exceptions import LeaseLost, WrongTransaction
from django_broadcaster.models import OutboxEvent
from django_broadcaster.states import UNDELIVERED, OutboxEventStatus

from .db_connections import drop_connection
from .heartbeat import beating
from .isolation_level import own_level_restored
from .log_safety import loggable
from .loop import DeliveryLoop
from .verdicts import Report

logger = logging.getLogger("django_broadcaster.relay")

SETTLE_ATTEMPTS = 5
"""Attempts, in about six seconds, to settle what was sent before the database failed."""

MOST = 10_000
"""The most events of one delivery; databases have limits, and so has OUTBOX_BATCH_SIZE."""


def deliver_pending(batch_size: int, *, in_total: bool = False) -> int:
    """Deliver up to `batch_size` pending events of each backend; return how many were attempted.

    With `in_total`, the limit is that of all backends together.

    Raises WrongTransaction inside a transaction, ValueError for a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: must be 1 or more, not {batch_size!r}")
    using = router.db_for_write(OutboxEvent)
    _refuse_in_transaction(using)
    attempted = 0
    for alias in backends.aliases():
        limit = batch_size - attempted if in_total else batch_size
        if limit < 1:
            break
        attempted += _deliver_some(using, alias, limit)
    return attempted


def deliver_one(event: OutboxEvent) -> bool:
    """Deliver one event if it is its turn; return whether it was acknowledged now."""
    using = router.db_for_write(OutboxEvent, instance=event)
    _refuse_in_transaction(using)
    events = OutboxEvent.objects.using(using)
    with (
        own_level_restored(connections[using]),
        DeliveryLoop(using, event.publisher_backend, takes_share=False) as loop,
    ):
        loop.do_rounds()
        if event.partition not in loop.lease.partitions or _has_earlier(event, using):
            return False
        if not events.filter(pk=event.pk, status=OutboxEventStatus.PENDING).exists():
            return False
        with beating(loop.lease):
            try:
                report = _deliver_and_settle(
                    loop, lambda: loop.deliver_only(event.pk, event.partition)
                )
            except LeaseLost:
                return False
        return report.published == 1


def _deliver_some(using: str, alias: str, limit: int) -> int:
    attempted = 0
    with (
        own_level_restored(connections[using]),
        DeliveryLoop(using, alias, takes_share=False) as loop,
        beating(loop.lease),
    ):
        while attempted < limit:
            try:
                size = min(limit - attempted, MOST)
                report = _deliver_and_settle(loop, lambda size=size: loop.turn(size))  # type: ignore[misc]
            except LeaseLost as error:
                extra = loop.lease.log_extra
                logger.warning(
                    "Lease lost: %s; another relay delivers the rest.", error, extra=extra
                )
                break
            attempted += report.attempted
            if not report.found_work:
                break
    return attempted


def _deliver_and_settle(loop: DeliveryLoop, deliver: Callable[[], Report]) -> Report:
    """Deliver, and return the figures; if the database ended the session, settle on a new one.

    Raises LeaseLost, and the database's error if nothing was sent or nothing can be written.
    """
    try:
        return deliver()
    except Error as error:
        failure = error
    backoff = Backoff()
    for _ in range(SETTLE_ATTEMPTS):
        if not loop.is_interrupted:
            break
        pause = backoff.next()
        logger.warning(
            "Could not settle a delivery of backend %r: %s; retrying in %.1f s.",
            loop.alias,
            loggable(failure),
            pause,
            extra=loop.lease.log_extra,
        )
        time.sleep(pause)
        _renew_session(loop.using)
        loop.forget()
        try:
            if report := loop.settle_earlier():
                return report
        except Error as error:
            failure = error
    _renew_session(loop.using)  # to leave on
    raise failure


def _renew_session(using: str) -> None:
    """Let the next statement open a new session if this one has ended."""
    connection = connections[using]
    if not connection.in_atomic_block and not connection.is_usable():
        drop_connection(using)


def _has_earlier(event: OutboxEvent, using: str) -> bool:
    """Return True if an earlier event of the key is not delivered yet."""
    if not event.partition_key:
        return False
    same_key = OutboxEvent.objects.using(using).filter(
        publisher_backend=event.publisher_backend, partition_key=event.partition_key
    )
    return same_key.filter(status__in=UNDELIVERED, pk__lt=event.pk).exists()


def _refuse_in_transaction(using: str) -> None:
    """Raise WrongTransaction if a transaction is open on any database.

    On the outbox's database, an event that has not committed must not be delivered. On another
    one, the changes of a handler could be rolled back after its event was published.
    """
    connection = connections[using]
    if not connection.in_atomic_block and not connection.get_autocommit():
        raise WrongTransaction(
            f"autocommit is off on database {using!r}, so a transaction is always open there, and "
            "events that have not committed must not be delivered; turn autocommit on for the call"
        )
    for each in connections.all(initialized_only=True):
        if each.in_atomic_block:
            _refuse_block(each.alias)


def _refuse_block(alias: str) -> None:
    try:
        with transaction.atomic(using=alias, durable=True):  # accepts the block of a TestCase
            pass
    except RuntimeError as error:
        raise WrongTransaction(
            f"events cannot be delivered inside transaction.atomic(), which is open on database "
            f"{alias!r}; call it after the commit, or use transaction.on_commit()"
        ) from error
