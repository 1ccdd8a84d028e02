"""The registry of handlers, by patterns of event types.

This module can be imported before `django.setup()`, so any module may register handlers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Generator,
    Iterator,
    Mapping,
)
from contextvars import copy_context
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from time import monotonic
from typing import Any, Concatenate, Final, ParamSpec, TypedDict, TypeVar, Unpack, overload

from asgiref.sync import AsyncToSync, async_to_sync

from .exceptions import TransientError
from .retry import RetryPolicy
from .setting_rules import POSITIVE_SECONDS, RETRIES
from .signals import event_created, event_published
from .typed_events import EventType, event_types
from .typed_events.handling import Arguments, arguments_for, undecoded

__all__ = [
    "EventHandlerRegistry",
    "Handler",
    "HandlerFunction",
    "event_created",
    "event_published",
    "event_registry",
]

logger = logging.getLogger("django_broadcaster")

HandlerFunction = Callable[[Any], object]
"""A function that receives the event, a `CloudEvent`. If it is async, it is awaited.

If it is registered for a declared class, it receives an event of that class, and its `CloudEvent`
if it has a second parameter without a default.
"""

EVERY_TYPE = "*"
"""The pattern of handlers without an event type."""

_OPTIONS: Final = {
    "atomic": "atomic",
    "consumer": "consumers",
    "max_retries": "max_retries",
    "retry": "retry",
    "timeout": "timeout",
}
"""The options of `register` that all registrations of a function share, and their attributes."""

F = TypeVar("F", bound=HandlerFunction)
E = TypeVar("E")
Further = ParamSpec("Further")
Result = TypeVar("Result")


class HandlerOptions(TypedDict, total=False):
    """The options of `EventHandlerRegistry.register`."""

    name: str | None
    consumer: str | Collection[str] | None
    atomic: bool
    max_retries: int | None
    retry: RetryPolicy | Mapping[str, Any] | None
    timeout: float | None


@dataclass(frozen=True, slots=True)
class Handler:
    """A registered function.

    `name` identifies it in the inbox: after a change of the name, it runs again for old events. If
    `atomic` is True, it runs in a transaction with the inbox's note. `path` is the dotted path from
    which the name was made, or empty if the name was given. `max_retries` is None for the number of
    the settings, and `retry` for their policy. `consumers` are the consumers whose events it takes;
    empty for all events. `arguments` makes the function's arguments from a `CloudEvent`.
    """

    name: str
    function: HandlerFunction
    patterns: tuple[str, ...]
    atomic: bool = True
    path: str = ""
    max_retries: int | None = None
    consumers: tuple[str, ...] = ()
    retry: RetryPolicy | None = None
    timeout: float | None = None
    arguments: Arguments = undecoded

    @property
    def is_async(self) -> bool:
        """Whether an event loop runs the function, or the one that it wraps."""
        return any(map(_is_async, _layers(self.function)))

    def matches(self, event_type: str, consumer: str = "") -> bool:
        """Return True if a pattern matches the whole event type, in its exact case.

        `consumer` is the consumer that received the event; empty if it was published here.
        """
        is_wanted = not self.consumers or consumer in self.consumers
        return is_wanted and self.matches_type(event_type)

    def matches_type(self, event_type: str) -> bool:
        """Return True if a pattern matches the whole event type, whatever consumer received it."""
        return any(fnmatchcase(event_type, pattern) for pattern in self.patterns)

    def call(self, event: Any) -> None:
        """Call the function for a CloudEvent, in a copy of the context; await it if it is async.

        Raises:
            Rejected: The data do not fit the declared class.
            TransientError: The data have a newer version than the class, or an async function took
                longer than `timeout`, and was cancelled.
            TypeError: The function is a generator, whose code has not run.
        """
        began = monotonic()
        copy_context().run(self._call, event)
        seconds = monotonic() - began
        if self.timeout is not None and seconds > self.timeout:
            logger.warning(
                "Handler %s took %.1f s (timeout %g s); its changes are kept, because only async "
                "handlers can be cancelled.",
                self.name,
                seconds,
                self.timeout,
            )

    def _call(self, event: Any) -> None:
        function = self.function
        if isinstance(function, AsyncToSync):
            function = function.awaitable  # so that the timeout can cancel it
        result = function(*self.arguments(event))
        if isinstance(result, Awaitable):
            async_to_sync(self._await)(result)
        elif isinstance(result, Generator | AsyncGenerator):
            # A decorator hid it from the registration.
            raise TypeError(
                f"handler {self.name} returned a {type(result).__name__}, whose code has not run"
            )

    async def _await(self, result: Awaitable[object]) -> None:
        limit = asyncio.timeout(self.timeout)
        try:
            async with limit:
                await result
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise TransientError(f"cancelled after {self.timeout:g} s (its timeout)") from error


class EventHandlerRegistry:
    """Handlers by event type pattern, in the order of their registration."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    @overload
    def register(
        self, event_type: str | None = None, **options: Unpack[HandlerOptions]
    ) -> Callable[[F], F]: ...

    @overload
    def register(
        self, event_type: type[E], **options: Unpack[HandlerOptions]
    ) -> Callable[
        [Callable[Concatenate[E, Further], Result]], Callable[Concatenate[E, Further], Result]
    ]: ...

    def register(
        self,
        event_type: str | type[Any] | None = None,
        *,
        name: str | None = None,
        consumer: str | Collection[str] | None = None,
        atomic: bool = True,
        max_retries: int | None = None,
        retry: RetryPolicy | Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Callable[..., Any]:
        """Return a decorator that registers a handler and returns it unchanged.

        Args:
            event_type: An event type or a shell-style pattern: `order.placed`, `order.*`. None for
                every event. A function that is registered for several runs once for an event.
                Or a class that `typed_event` declared: the function gets an event of this class,
                and its `CloudEvent` if it has a second parameter without a default.
            name: Identifies the handler in the inbox; the function's dotted path unless given. If
                functions share a path, each has its first event type added: `path(order.placed)`.
            consumer: The alias in OUTBOX_CONSUMERS of the consumer whose events the handler takes,
                or several. By default it takes events from everywhere.
            atomic: Whether the handler runs in a transaction that commits with the inbox's note of
                it. With False it has none, and runs again if the process dies before the note.
            max_retries: The retries of its events after the first attempt, unless the publish call
                sets its own; by default those of the settings. If an event has several handlers,
                the largest number applies.
            retry: When its events are retried after it failed: a `RetryPolicy`, or a dictionary
                with parts of it, such as `{"initial": 60}`. By default the policy of the backend.
            timeout: The most seconds that a call may take. An async handler is cancelled, and has
                failed. Another one can't be interrupted: a warning is logged after it returned.

        Raises:
            ValueError: An argument is out of range or empty, another function has the name, or the
                function is registered with other options.
            TypeError: An argument has the wrong type, the class is not declared, or the function is
                a generator.
        """
        is_typed = isinstance(event_type, type)
        pattern = _pattern_of(event_type)
        if not isinstance(pattern, str):
            raise TypeError(
                "event_type: write @event_registry.register(), or "
                "@event_registry.register('order.*'), with parentheses"
            )
        if not pattern:
            raise ValueError("event_type: must not be empty; omit it to handle every event")
        policy = _policy_of(retry)
        if policy is not None and policy.max_retries is not None:
            if max_retries is not None:
                raise ValueError("max_retries: must be given once, here or in retry")
            max_retries = policy.max_retries
        if max_retries is not None and not RETRIES.accepts(max_retries):
            raise ValueError(f"max_retries: must be {RETRIES.wanted}, not {max_retries!r}")
        if timeout is not None and not POSITIVE_SECONDS.accepts(timeout):
            raise ValueError(f"timeout: must be {POSITIVE_SECONDS.wanted}, not {timeout!r}")
        consumers = _consumers_of(consumer)

        def decorate(function: F) -> F:
            if isgeneratorfunction(function) or isasyncgenfunction(function):
                raise TypeError("handlers must not be generators, whose calls run no code")
            path = "" if name else _path_of(function)
            known_as = name or self._name_for(function, path, pattern)
            arguments = arguments_for(function) if is_typed else undecoded
            self._add(
                Handler(
                    known_as,
                    function,
                    (pattern,),
                    atomic=atomic,
                    path=path,
                    max_retries=max_retries,
                    consumers=consumers,
                    retry=policy,
                    timeout=timeout,
                    arguments=arguments,
                )
            )
            return function

        return decorate

    def handlers_for(self, event_type: str, consumer: str = "") -> list[Handler]:
        """Return the handlers of an event, in the order of their registration.

        `consumer` is the consumer that received the event; empty if it was published here.
        """
        return [each for each in self._handlers.values() if each.matches(event_type, consumer)]

    @property
    def sets_max_retries(self) -> bool:
        """Whether a handler has a `max_retries` of its own."""
        return any(handler.max_retries is not None for handler in self)

    def max_retries_for(self, event_type: str, default: int, consumer: str = "") -> int:
        """Return the most retries that a handler of the event type allows.

        `default` counts for handlers without a `max_retries`, and for an event without handlers.
        """
        found = (each.max_retries for each in self.handlers_for(event_type, consumer))
        return max((default if own is None else own for own in found), default=default)

    def get_handlers(self, event_type: str | None = None) -> list[HandlerFunction]:
        """Return the functions for an event type, including those for every event.

        Without an event type, return only the functions that are registered for every event.
        """
        handlers = self if event_type is None else self.handlers_for(event_type)
        wanted = [h for h in handlers if event_type is not None or EVERY_TYPE in h.patterns]
        return [handler.function for handler in wanted]

    def clear_handlers(self, event_type: str | None = None) -> None:
        """Forget the handlers of one event type or pattern, or all handlers."""
        if event_type is None:
            self._handlers.clear()
            return
        for handler in list(self):
            patterns = tuple(each for each in handler.patterns if each != event_type)
            if patterns:
                self._handlers[handler.name] = replace(handler, patterns=patterns)
            else:
                del self._handlers[handler.name]

    def handle_event(self, event: Any) -> bool:
        """Run the handlers of an event now, without the inbox; return True if none failed.

        Use this in tests and scripts; the relay does not call it. If a handler fails, that is
        logged, and the others still run.
        """
        succeeded = True
        for handler in self.handlers_for(event.event_type):
            try:
                handler.call(event)
            except Exception as error:  # the error's text may quote the event
                logger.error("Handler %s failed with %s.", handler.name, type(error).__name__)
                succeeded = False
        return succeeded

    def unregister(self, name: str) -> None:
        """Remove a handler; raise KeyError if no handler has this name."""
        del self._handlers[name]

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._handlers.values())

    def __len__(self) -> int:
        return len(self._handlers)

    def _name_for(self, function: HandlerFunction, path: str, pattern: str) -> str:
        """Return a function's path, with the pattern if another function has the same path.

        A decorator without `functools.wraps` gives all functions the same path. Because names must
        not depend on the order of imports, the other function's name then gets its pattern, too.

        Raises:
            ValueError: Both functions have the same pattern.
        """
        same = [each for each in self if path in (each.path, each.name)]
        for handler in same:
            if handler.function == function:  # not `is`: each access creates a bound method
                return handler.name
        if not same:
            return path
        name = f"{path}({pattern})"
        for handler in same:
            if handler.name == handler.path:
                new_name = f"{path}({handler.patterns[0]})"
                if new_name == name or new_name in self._handlers:
                    raise _taken(new_name)
                self._rename(handler, new_name)
        return name

    def _rename(self, handler: Handler, name: str) -> None:
        """Rename a handler, which keeps its place in the order."""
        renamed = replace(handler, name=name)
        handlers = (renamed if each is handler else each for each in self)
        self._handlers = {each.name: each for each in handlers}

    def _add(self, handler: Handler) -> None:
        name = handler.name
        known = self._handlers.get(name)
        if known is None:
            self._handlers[name] = handler
        elif known.function != handler.function:
            raise _taken(name)
        elif known.arguments is not handler.arguments:
            raise ValueError(
                f"event_type: must be a class in all registrations of handler {name!r}, or in none"
            )
        else:
            for option, attribute in _OPTIONS.items():
                wanted = getattr(known, attribute)
                if getattr(handler, attribute) != wanted:
                    raise ValueError(
                        f"{option}: must be {wanted!r}, as in another registration of handler "
                        f"{name!r}"
                    )
            self._handlers[name] = replace(known, patterns=(*known.patterns, *handler.patterns))


def _taken(name: str) -> ValueError:
    return ValueError(
        f"name: must be unique, but another handler is {name!r}; pass name= to register()"
    )


def _pattern_of(event_type: object) -> object:
    """Return the pattern of a type, of a class, or of None; raises TypeError or NameError."""
    if event_type is None:
        return EVERY_TYPE
    if not isinstance(event_type, type):
        return event_type
    declared: EventType[Any] = event_types.of(event_type)
    declared.prepare()
    return declared.type


def _is_async(function: HandlerFunction) -> bool:
    called = [function, getattr(function, "__call__", None)]  # noqa: B004  # of an instance
    return any(map(iscoroutinefunction, called))


def _policy_of(retry: object) -> RetryPolicy | None:
    """Return the option `retry` as a policy; raises ValueError or TypeError."""
    if retry is None or isinstance(retry, RetryPolicy):
        return retry
    if not isinstance(retry, Mapping):
        raise TypeError(f"retry: must be a dictionary or a RetryPolicy, not {retry!r}")
    try:
        return RetryPolicy(**retry)
    except (TypeError, ValueError) as error:
        raise ValueError(f"retry: {error}") from error


def _consumers_of(consumer: object) -> tuple[str, ...]:
    """Return the option `consumer` as a tuple; raises TypeError or ValueError."""
    if consumer is None:
        return ()
    names = [consumer] if isinstance(consumer, str) else consumer
    if not isinstance(names, Collection) or not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"consumer: must be an alias of OUTBOX_CONSUMERS, or several, not {consumer!r}"
        )
    if not names or not all(names):
        raise ValueError("consumer: must not be empty; omit it to take events from everywhere")
    return tuple(sorted(set(names)))


def _path_of(function: HandlerFunction) -> str:
    """Return a function's dotted path, or that of one in `async_to_sync()` or `partial()`.

    Raises:
        TypeError: The object has no dotted path.
    """
    named = next((each for each in _layers(function) if hasattr(each, "__qualname__")), None)
    if named is None:
        raise TypeError(
            f"name: must be given for a handler of type {type(function).__name__}; "
            "pass name= to register()"
        )
    return f"{named.__module__}.{named.__qualname__}"


def _layers(function: HandlerFunction) -> Iterator[Any]:
    """Yield a function and the functions that it wraps, the outermost first."""
    layer: Any = function
    while layer is not None:
        yield layer
        if isinstance(layer, AsyncToSync):
            layer = layer.awaitable
        elif isinstance(layer, partial):
            layer = layer.func
        else:
            layer = getattr(layer, "__wrapped__", None)


event_registry = EventHandlerRegistry()
"""The handlers that `LocalBackend` and the consumers run, from each app's `event_handlers.py`."""
