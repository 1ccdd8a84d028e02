"""The interface for tracers of publish calls, sent batches and handlers.

A signal reports a past event. A span must be active while the work is done, and an event needs its
span's context before it is written. `instrumentation` installs a tracer. Without one, each of these
places only reads a variable.

If a tracer raises an error, it is logged, and the event is published, sent or handled without a
span.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from .backends.base import Message, MessageBackend, Outcome
    from .events import CloudEvent
    from .registry import Handler

    Stamp: TypeAlias = Callable[[CloudEvent], CloudEvent]
    """A function that returns an event of a publish call with its trace context."""

    Note: TypeAlias = Callable[[Sequence[Outcome]], None]
    """A function that receives the outcomes of a batch's messages."""

logger = logging.getLogger("django_broadcaster.tracing")


class Tracer(Protocol):
    """A tracer. Each method returns a context manager for the traced work."""

    def publishing(
        self, event: CloudEvent | None, aliases: Sequence[str]
    ) -> AbstractContextManager[Stamp]:
        """Trace a publish call.

        Args:
            event: The event, or None for a call with many.
            aliases: The backends of the events; empty if they are not known beforehand.
        """

    def sending(
        self, backend: MessageBackend, messages: Sequence[Message]
    ) -> AbstractContextManager[Note]:
        """Trace the call of a backend with a batch."""

    def processing(self, event: CloudEvent, handler: Handler) -> AbstractContextManager[object]:
        """Trace a handler's run for an event, including its transaction."""


class _Place:
    tracer: Tracer | None = None


def install(tracer: Tracer | None) -> None:
    """Install a tracer in place of the current one; None removes it."""
    _Place.tracer = tracer


def installed() -> Tracer | None:
    """Return the installed tracer, or None."""
    return _Place.tracer


def publishing(
    event: CloudEvent | None, aliases: Callable[[], Sequence[str]]
) -> AbstractContextManager[Stamp | None]:
    """Trace a publish call; yield None if events are not to be changed."""
    tracer = _Place.tracer
    if tracer is None:
        return _UNTRACED
    return _guarded(lambda: tracer.publishing(event, aliases()), lambda event: event)


def sending(
    backend: MessageBackend, messages: Sequence[Message]
) -> AbstractContextManager[Note | None]:
    """Trace the sending of a batch; yield None if the outcomes are not needed."""
    tracer = _Place.tracer
    if tracer is None:
        return _UNTRACED
    return _guarded(lambda: tracer.sending(backend, messages), lambda _: None)


def processing(event: CloudEvent, handler: Handler) -> AbstractContextManager[object]:
    """Trace a handler."""
    tracer = _Place.tracer
    if tracer is None:
        return _UNTRACED
    return _guarded(lambda: tracer.processing(event, handler), lambda _: None)


_UNTRACED: Final = nullcontext(None)


@contextmanager
def _guarded(
    begin: Callable[[], AbstractContextManager[Any]], otherwise: Callable[[Any], Any]
) -> Iterator[Any]:
    """Enter a tracer's context manager, and log its errors.

    Args:
        begin: Returns the context manager. It receives the block's error, but can't suppress it.
        otherwise: Is called in place of the manager's value if that fails.
    """
    try:
        manager = begin()
        call = manager.__enter__()
    except Exception as error:
        _log(error)
        manager, call = _UNTRACED, otherwise

    def value(argument: Any) -> Any:
        try:
            return call(argument)
        except Exception as error:
            _log(error)
            return otherwise(argument)

    try:
        yield value
    except BaseException as error:
        _end(manager, error)
        raise
    _end(manager, None)


def _end(manager: AbstractContextManager[Any], error: BaseException | None) -> None:
    try:
        if error is None:
            manager.__exit__(None, None, None)
        else:
            manager.__exit__(type(error), error, error.__traceback__)
    except Exception as problem:
        _log(problem)


def _log(error: Exception) -> None:
    logger.warning("Tracer failed: %s; continuing without a span.", error, exc_info=error)
