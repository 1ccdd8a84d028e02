"""The consumer side: run each handler once per event, even if the event is delivered again.

The note that a handler has processed an event commits in the same transaction as the handler's
changes. So both are saved, or neither is.
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
"""Maximum of a handler's transactions while other transactions write the same note."""


def process(event: CloudEvent, handler: Handler, *, using: str | None = None) -> bool:
    """Run one handler unless it has processed this event; return True if it ran.

    Events with the same source and id are the same event. The handler runs in a copy of the
    context, so a language, time zone or context variable that it sets ends with it. If it raises
    an error, its transaction is rolled back together with the note, and the error is raised.

    A handler with `atomic=False` runs without that transaction, and its note is written after it
    returned. After a crash in between, it runs again.

    Args:
        event: The event.
        handler: The handler.
        using: Alias of the database, by default where the router writes `InboxEvent`.

    Raises:
        AfterCommitFailed: A function that the handler passed to `on_commit` raised an error. The
            handler's changes have committed, and it does not run again.
        TransactionManagementError: The handler continued after a database error or ended its
            transaction, so its changes can't commit with the note; or, with `atomic=False`, it
            left a transaction open.
    """
    alias = using or router.db_for_write(InboxEvent)
    check_connections()
    note = Note(event, handler, alias)
    with tracing.processing(event, handler):
        if handler.atomic:
            return _process_until_seen(event, handler, note)
        return _process_alone(event, handler, note)


def _process_until_seen(event: CloudEvent, handler: Handler, note: Note) -> bool:
    """Retry in a new transaction, which sees a note that another transaction has written."""
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
        # The function is async, which its registration could not detect: its code has not run.
        if isinstance(result, Coroutine):
            result.close()  # otherwise Python warns that it was never awaited
        raise TypeError(
            f"handler {handler.name} returned a {type(result).__name__} that was never awaited"
        )


def dispatch(event: CloudEvent, registry: EventHandlerRegistry = event_registry) -> int:
    """Run each handler of the event that has not processed it; each one commits by itself.

    If a handler fails, the others still run, and then one error is raised for all failures. Its
    `retry_after` is the longest of theirs, and it spends a retry if one of them does.

    Args:
        event: The event.
        registry: The handlers.

    Returns:
        The number of handlers that the event has.

    Raises:
        AfterCommitFailed: A handler raised this error. A retry would skip the handler, so the
            event has to become a dead letter.
        Rejected: All failed handlers raised Rejected.
        TransientError: Handlers failed in other ways.
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
        "an on_commit function failed after the handler's changes had committed, so the handler "
        f"will not run again: {type(error).__name__}: {error}"
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
