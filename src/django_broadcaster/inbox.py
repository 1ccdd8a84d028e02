"""The consumer side: run a handler once per event, whatever is delivered again.

The fact that an event was handled commits in the same transaction as what the handler changed, so
neither can be there without the other.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Coroutine, Generator
from contextvars import copy_context

from django.db import router, transaction

from . import tracing
from .events import CloudEvent
from .exceptions import AfterCommitFailed, DeliveryError, Rejected, TransientError
from .handler_transaction import HandlerTransaction, left_open
from .idle_connections import check_connections
from .inbox_notes import Note, NoteConflict
from .models import InboxEvent
from .registry import EventHandlerRegistry, Handler, event_registry

MOST_STARTS = 5
"""Times that a handler's transaction begins, if others write down the same event meanwhile."""


def process(event: CloudEvent, handler: Handler, *, using: str | None = None) -> bool:
    """Run one handler unless it has had this event; return whether it ran.

    An event is the same when its source and id are. The handler runs in a copy of the context, so
    that a language, time zone or context variable that it sets ends with it. What the handler
    raises is passed on, and its transaction is rolled back together with the note that it had the
    event. `using` is the alias of that transaction, by default where the router writes
    `InboxEvent`.

    A handler with `atomic=False` runs without that transaction, and its note is written after it
    returned: a crash in between lets it run again.

    Raises:
        AfterCommitFailed: a function that the handler gave to `on_commit` raised. What the
            handler changed has committed, and it does not run again.
        TransactionManagementError: the handler went on after a database error or ended its
            transaction, so that its changes can't commit with the note; or, with `atomic=False`,
            it left a transaction open.
    """
    alias = using or router.db_for_write(InboxEvent)
    check_connections()
    note = Note(event, handler, alias)
    with tracing.processing(event, handler):
        if handler.atomic:
            return _process_until_seen(event, handler, note)
        return _process_alone(event, handler, note)


def _process_until_seen(event: CloudEvent, handler: Handler, note: Note) -> bool:
    """Start again while others write the same note: at REPEATABLE READ only a new start sees it."""
    for _ in range(MOST_STARTS - 1):
        try:
            return _process_atomically(event, handler, note)
        except NoteConflict:
            continue
    return _process_atomically(event, handler, note)


def _process_atomically(event: CloudEvent, handler: Handler, note: Note) -> bool:
    own = HandlerTransaction(handler.name, note)
    try:
        with transaction.atomic(using=note.using):
            if not note.write():
                return False
            with own.watching():
                _call(handler, event)
    except BaseException as error:
        if own.has_committed and isinstance(error, Exception | SystemExit):
            raise _failed_after_commit(error) from error
        if not own.has_committed:
            own.forget()
        raise
    return True


def _process_alone(event: CloudEvent, handler: Handler, note: Note) -> bool:
    if note.exists():
        return False
    with left_open(handler.name):
        _call(handler, event)
    note.write()
    return True


def _call(handler: Handler, event: CloudEvent) -> None:
    result = copy_context().run(handler.function, event)
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
    them wants (`retry_after`), and spends no retry if none of them does. If one of them was
    AfterCommitFailed, that is raised: a retry would skip its handler, and nothing would show it.
    """
    handlers = registry.handlers_for(event.event_type)
    failures = [
        (handler, error) for handler in handlers if (error := _attempt(event, handler)) is not None
    ]
    if failures:
        kind: type[DeliveryError] = TransientError
        if any(isinstance(e, AfterCommitFailed) for _, e in failures):
            kind = AfterCommitFailed
        elif all(isinstance(e, Rejected) for _, e in failures):
            kind = Rejected
        text = "; ".join(f"handler {h.name}: {type(e).__name__}: {e}" for h, e in failures)
        error = kind(text, retry_after=max(getattr(e, "retry_after", 0.0) for _, e in failures))
        if isinstance(error, TransientError):
            error.spends_retry = any(getattr(e, "spends_retry", True) for _, e in failures)
        error.unforeseen = next((u for _, e in failures if (u := _unforeseen(e))), None)
        error.handlers = tuple((h.name, _unforeseen(e) or e) for h, e in failures)
        raise error from failures[0][1]
    return len(handlers)


def _failed_after_commit(error: BaseException) -> AfterCommitFailed:
    failure = AfterCommitFailed(
        "a function that it gave to on_commit failed after its changes had committed, and it does "
        f"not run again: {type(error).__name__}: {error}"
    )
    failure.unforeseen = error if isinstance(error, Exception) else None
    return failure


def _unforeseen(error: Exception) -> Exception | None:
    return error.unforeseen if isinstance(error, DeliveryError) else error


def _attempt(event: CloudEvent, handler: Handler) -> Exception | None:
    try:
        process(event, handler)
    except Exception as error:
        return error
    return None
