"""The consumer side: run each handler once per event, even if the event is delivered again.

The note that a handler has processed an event commits in the same transaction as the handler's
changes. So both are saved, or neither is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter

from django.db import router, transaction

from . import tracing
from .error_places import place_of
from .events import CloudEvent
from .exceptions import AfterCommitFailed, DeliveryError, Rejected, TransientError
from .handler_transaction import HandlerTransaction, left_open
from .idle_connections import check_connections
from .inbox_notes import Note, NoteConflict, Rejections
from .models import InboxEvent
from .registry import EventHandlerRegistry, Handler, event_registry
from .signals import handler_called

Failures = Sequence[tuple[Handler, Exception]]
"""The handlers of an event that failed, each with its error."""

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
                call(handler, event)
    except BaseException as error:
        if own.has_committed and isinstance(error, Exception | SystemExit):
            raise failed_after_commit(error) from error
        if not own.has_committed:
            own.forget()
        raise
    return True


def _process_alone(event: CloudEvent, handler: Handler, note: Note) -> bool:
    if note.exists():
        return False
    with left_open(handler.name):
        call(handler, event)
    note.write()
    return True


def call(handler: Handler, event: CloudEvent) -> None:
    """Call a handler's function, and report how long it took; raises what it raises."""
    began, failure = perf_counter(), ""
    try:
        handler.call(event)
    except BaseException as error:
        failure = type(error).__name__
        raise
    finally:
        handler_called.send_robust(
            sender=Handler, handler=handler, seconds=perf_counter() - began, error=failure
        )


def dispatch(
    event: CloudEvent,
    registry: EventHandlerRegistry = event_registry,
    *,
    consumer: str = "",
    attempt: int = 1,
    failed: Mapping[str, Exception] | None = None,
) -> int:
    """Run each handler of the event that has not processed it; each one commits by itself.

    If a handler fails, the others still run, and then one error is raised for all failures. Its
    pause is the longest of theirs, and it spends a retry if one of them does. A handler that raised
    Rejected does not run again at later attempts, which the others may need.

    Args:
        event: The event.
        registry: The handlers.
        consumer: The consumer that received the event; empty if it was published here.
        attempt: The number of the attempt. The first one runs handlers that had rejected the event,
            because it was replayed.
        failed: The errors of handlers, by name, that this attempt has already called.

    Returns:
        The number of handlers that the event has.

    Raises:
        AfterCommitFailed: A handler raised this error. A retry would skip the handler, so the
            event has to become a dead letter.
        Rejected: All failed handlers raised Rejected.
        TransientError: Handlers failed in other ways.
    """
    handlers = registry.handlers_for(event.event_type, consumer)
    rejections = Rejections(event, handlers, router.db_for_write(InboxEvent))
    rejected = rejections.names() if attempt > 1 and len(handlers) > 1 else set()
    errors = {name: _rejected_earlier() for name in rejected} | dict(failed or {})
    failures: list[tuple[Handler, Exception]] = []
    for handler in handlers:
        error = errors.get(handler.name) or _attempt(event, handler)
        if error is not None:
            failures.append((handler, error))
    if failures:
        failure = failure_of(failures, attempt)
        if len(handlers) > 1:
            if attempt == 1 or (rejected and isinstance(failure, Rejected)):
                rejections.clear()
            if isinstance(failure, TransientError):
                rejections.add({h.name for h, e in failures if isinstance(e, Rejected)} - rejected)
        raise failure from failures[0][1]
    return len(handlers)


def _rejected_earlier() -> Rejected:
    return Rejected("rejected at an earlier attempt")


def failure_of(failures: Failures, attempt: int, noun: str = "handler") -> DeliveryError:
    """Return one error for all handlers of an event that failed at an attempt.

    `noun` is what its text calls a handler.
    """
    errors = [error for _, error in failures]
    kind: type[DeliveryError] = TransientError
    if any(isinstance(each, AfterCommitFailed) for each in errors):
        kind = AfterCommitFailed
    elif all(isinstance(each, Rejected) for each in errors):
        kind = Rejected
    text = "; ".join(f"{noun} {h.name}: {_class_and_place(e)}: {e}" for h, e in failures)
    failure = kind(text, retry_after=max(getattr(each, "retry_after", 0.0) for each in errors))
    if isinstance(failure, TransientError):
        retried = [(h, e) for h, e in failures if not isinstance(e, Rejected)]
        # The first rejection spends one, so that the next attempt is known not to be the first.
        spending = errors if attempt == 1 else [error for _, error in retried]
        failure.spends_retry = any(getattr(each, "spends_retry", True) for each in spending)
        own = [_delay_of(handler, error, attempt) for handler, error in retried]
        longest = max((each for each in own if each is not None), default=None)
        if longest is not None and None in own:
            failure.retry_after = max(failure.retry_after, longest)
        else:
            failure.delay = longest
    failure.unforeseen = next((u for each in errors if (u := _unforeseen(each))), None)
    failure.handlers = tuple((h.name, _unforeseen(e) or e) for h, e in failures)
    return failure


def _class_and_place(error: Exception) -> str:
    """Return the class of a handler's error, and the line that raised it: errors are grouped so."""
    place = place_of(error)
    name = type(error).__name__
    return f"{name} at {place}" if place else name


def _delay_of(handler: Handler, error: Exception, attempt: int) -> float | None:
    """Return the pause that a handler wants before its retry; None for the backend's policy."""
    if isinstance(error, DeliveryError) and error.delay is not None:
        return error.delay
    return None if handler.retry is None else handler.retry.delay(attempt, None)


def failed_after_commit(error: BaseException) -> AfterCommitFailed:
    """Return the error of a handler with an `on_commit` function that failed."""
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
