"""Where a tracer goes along: with a publish call, with a batch that is sent, with a handler.

A signal tells what has happened. A span has to be there while it happens, so that what goes on
inside belongs to it, and an event has to be told its span before it is written. `instrumentation`
installs a tracer; without one, each of these places costs a look at a variable.

What a tracer raises is logged and goes no further: the event is published, sent or handled without
it.
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
    """Returns an event of a publish call as it is to be written."""

    Note: TypeAlias = Callable[[Sequence[Outcome]], None]
    """Is told what became of the messages of a batch."""

logger = logging.getLogger("django_broadcaster.tracing")


class Tracer(Protocol):
    """What goes along. Each method returns a context manager for the time that it takes."""

    def publishing(
        self, event: CloudEvent | None, aliases: Sequence[str]
    ) -> AbstractContextManager[Stamp]:
        """Go along with a publish call.

        `event` is the only one, or None for a call with many. `aliases` are the backends that the
        events go to, none if they are not known beforehand.
        """

    def sending(
        self, backend: MessageBackend, messages: Sequence[Message]
    ) -> AbstractContextManager[Note]:
        """Go along while a relay hands a batch to a backend."""

    def processing(self, event: CloudEvent, handler: Handler) -> AbstractContextManager[object]:
        """Go along while a handler runs for an event, its transaction included."""


class _Place:
    tracer: Tracer | None = None


def install(tracer: Tracer | None) -> None:
    """Let this tracer go along from now on, instead of the one before; None for nobody."""
    _Place.tracer = tracer


def installed() -> Tracer | None:
    """Return the tracer, if there is one."""
    return _Place.tracer


def publishing(
    event: CloudEvent | None, aliases: Callable[[], Sequence[str]]
) -> AbstractContextManager[Stamp | None]:
    """Trace a publish call; the value is None where no event is to be changed."""
    tracer = _Place.tracer
    if tracer is None:
        return _NOBODY
    return _guarded(lambda: tracer.publishing(event, aliases()), lambda event: event)


def sending(
    backend: MessageBackend, messages: Sequence[Message]
) -> AbstractContextManager[Note | None]:
    """Trace the sending of a batch; the value is None where nobody wants to know the outcomes."""
    tracer = _Place.tracer
    if tracer is None:
        return _NOBODY
    return _guarded(lambda: tracer.sending(backend, messages), lambda _: None)


def processing(event: CloudEvent, handler: Handler) -> AbstractContextManager[object]:
    """Trace a handler."""
    tracer = _Place.tracer
    if tracer is None:
        return _NOBODY
    return _guarded(lambda: tracer.processing(event, handler), lambda _: None)


_NOBODY: Final = nullcontext(None)


@contextmanager
def _guarded(
    begin: Callable[[], AbstractContextManager[Any]], otherwise: Callable[[Any], Any]
) -> Iterator[Any]:
    """Go through a tracer's context manager, whose errors break nothing.

    Its value is called as it is, or `otherwise` where that raises. What the block raises is told
    to the tracer, which can't keep it.
    """
    try:
        manager = begin()
        call = manager.__enter__()
    except Exception as error:
        _log(error)
        manager, call = _NOBODY, otherwise

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
    logger.warning("the tracer failed, and is left out: %s", error, exc_info=error)
