"""The consumer side: run a handler once per event, whatever is delivered again.

The fact that an event was handled commits in the same transaction as what the handler changed, so
neither can be there without the other.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Coroutine, Generator
from hashlib import sha256

from django.db import connections, router, transaction
from django.db.models.constants import OnConflict
from django.utils import timezone

from . import tracing
from .events import CloudEvent
from .exceptions import DeliveryError, Rejected, TransientError
from .models import InboxEvent
from .querysets import storable
from .registry import EventHandlerRegistry, Handler, event_registry


def process(event: CloudEvent, handler: Handler, *, using: str | None = None) -> bool:
    """Run one handler unless it has had this event; return whether it ran.

    An event is the same when its source and id are. What the handler raises is passed on, and
    its transaction is rolled back together with the note that it had the event. A handler that
    hides a database error, so that its transaction can't commit, is a TransactionManagementError.
    `using` is the alias of that transaction, by default where the router writes `InboxEvent`.
    """
    alias = using or router.db_for_write(InboxEvent)
    with tracing.processing(event, handler), transaction.atomic(using=alias):
        first_time = _remember(event, handler, alias)
        if first_time:
            _call(handler, event)
            if transaction.get_rollback(using=alias):
                raise transaction.TransactionManagementError(
                    f"handler {handler.name} went on after a database error, which undoes what it "
                    "changed; in it, wrap what may fail in transaction.atomic()"
                )
    return first_time


def _call(handler: Handler, event: CloudEvent) -> None:
    result = handler.function(event)
    if isinstance(result, Awaitable | Generator | AsyncGenerator):
        # A function that hides that it is async: it would count as done, and nothing has run.
        if isinstance(result, Coroutine):
            result.close()  # which else warns that nobody awaited it
        raise TypeError(f"handler {handler.name} gave back a {type(result).__name__}, not yet run")


def dispatch(event: CloudEvent, registry: EventHandlerRegistry = event_registry) -> int:
    """Run every handler of the event that has not had it; each commits by itself.

    Returns how many handlers the event has.
    When handlers fail the others still run. Then the failures are raised as one error:
    TransientError, or Rejected if each of them was Rejected. It waits as long as the longest of
    them wants (`retry_after`), and spends no retry if none of them does.
    """
    handlers = registry.handlers_for(event.event_type)
    failures = [
        (handler, error) for handler in handlers if (error := _attempt(event, handler)) is not None
    ]
    if failures:
        kind = Rejected if all(isinstance(e, Rejected) for _, e in failures) else TransientError
        text = "; ".join(f"handler {h.name}: {type(e).__name__}: {e}" for h, e in failures)
        error = kind(text, retry_after=max(getattr(e, "retry_after", 0.0) for _, e in failures))
        if isinstance(error, TransientError):
            error.spends_retry = any(getattr(e, "spends_retry", True) for _, e in failures)
        error.unforeseen = next((e for _, e in failures if not isinstance(e, DeliveryError)), None)
        raise error from failures[0][1]
    return len(handlers)


def _attempt(event: CloudEvent, handler: Handler) -> Exception | None:
    try:
        process(event, handler)
    except Exception as error:
        return error
    return None


def _remember(event: CloudEvent, handler: Handler, using: str) -> bool:
    """Write down that the handler has the event; return False if that stands there already."""
    connection = connections[using]
    ops = connection.ops
    row = {
        "identity": sha256("\0".join((handler.name, event.source, event.id)).encode()).hexdigest(),
        # For the reader; an event of another maker may have longer ones than the columns.
        "handler": storable(handler.name, connection)[:255],
        "source": storable(event.source, connection)[:512],
        "event_id": storable(event.id, connection)[:255],
        "processed_at": ops.adapt_datetimefield_value(timezone.now()),
    }
    names = ", ".join(ops.quote_name(name) for name in row)
    insert = ops.insert_statement(on_conflict=OnConflict.IGNORE)
    suffix = ops.on_conflict_suffix_sql([], OnConflict.IGNORE, [], [])
    marks = ", ".join(["%s"] * len(row))
    table = ops.quote_name(InboxEvent._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(f"{insert} {table} ({names}) VALUES ({marks}) {suffix}", list(row.values()))
        return bool(cursor.rowcount == 1)
