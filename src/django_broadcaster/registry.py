"""The registry of handlers, by patterns of event types.

This module can be imported before `django.setup()`, so any module may register handlers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextvars import copy_context
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any, TypeVar

from asgiref.sync import AsyncToSync

from .setting_rules import RETRIES
from .signals import event_created, event_published

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
"""A function that receives the event, a `CloudEvent`."""

EVERY_TYPE = "*"
"""The pattern of handlers without an event type."""

F = TypeVar("F", bound=HandlerFunction)


@dataclass(frozen=True, slots=True)
class Handler:
    """A registered function.

    `name` identifies it in the inbox: after a change of the name, it runs again for old events. If
    `atomic` is True, it runs in a transaction with the inbox's note. `path` is the dotted path from
    which the name was made, or empty if the name was given. `max_retries` is None for the number of
    the settings.
    """

    name: str
    function: HandlerFunction
    patterns: tuple[str, ...]
    atomic: bool = True
    path: str = ""
    max_retries: int | None = None

    @property
    def is_async(self) -> bool:
        """Whether the function wraps an async function, which `async_to_sync()` runs."""
        return any(iscoroutinefunction(each) for each in _layers(self.function))

    def matches(self, event_type: str) -> bool:
        """Return True if a pattern matches the whole event type, in its exact case."""
        return any(fnmatchcase(event_type, pattern) for pattern in self.patterns)


class EventHandlerRegistry:
    """Handlers by event type pattern, in the order of their registration."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def register(
        self,
        event_type: str | None = None,
        *,
        name: str | None = None,
        atomic: bool = True,
        max_retries: int | None = None,
    ) -> Callable[[F], F]:
        """Return a decorator that registers a handler and returns it unchanged.

        Args:
            event_type: An event type or a shell-style pattern: `order.placed`, `order.*`. None for
                every event. A function that is registered for several runs once for an event.
            name: Identifies the handler in the inbox; the function's dotted path unless given. If
                functions share a path, each has its first event type added: `path(order.placed)`.
            atomic: Whether the handler runs in a transaction that commits with the inbox's note of
                it. With False it has none, and runs again if the process dies before the note.
            max_retries: The retries of its events after the first attempt, unless the publish call
                sets its own; by default those of the settings. If an event has several handlers,
                the largest number applies.

        Raises:
            ValueError: `event_type` is empty, `max_retries` is out of range, another function has
                the name, or the function is registered with another `atomic` or `max_retries`.
            TypeError: `event_type` is not a string, or the function is async or a generator.
        """
        pattern = EVERY_TYPE if event_type is None else event_type
        if not isinstance(pattern, str):
            raise TypeError(
                "event_type: write @event_registry.register(), or "
                "@event_registry.register('order.*'), with parentheses"
            )
        if not pattern:
            raise ValueError("event_type: must not be empty; omit it to handle every event")
        if max_retries is not None and not RETRIES.accepts(max_retries):
            raise ValueError(f"max_retries: must be {RETRIES.wanted}, not {max_retries!r}")

        def decorate(function: F) -> F:
            if _is_async(function):
                raise TypeError("handlers must not be async; wrap this one in async_to_sync()")
            if isgeneratorfunction(function):
                raise TypeError("handlers must not be generators, whose calls run no code")
            path = "" if name else _path_of(function)
            known_as = name or self._name_for(function, path, pattern)
            self._add(Handler(known_as, function, (pattern,), atomic, path, max_retries))
            return function

        return decorate

    def handlers_for(self, event_type: str) -> list[Handler]:
        """Return the handlers whose pattern matches the event type."""
        return [handler for handler in self._handlers.values() if handler.matches(event_type)]

    @property
    def sets_max_retries(self) -> bool:
        """Whether a handler has a `max_retries` of its own."""
        return any(handler.max_retries is not None for handler in self)

    def max_retries_for(self, event_type: str, default: int) -> int:
        """Return the most retries that a handler of the event type allows.

        `default` counts for handlers without a `max_retries`, and for an event without handlers.
        """
        found = (each.max_retries for each in self.handlers_for(event_type))
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
                copy_context().run(handler.function, event)
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
        elif known.atomic is not handler.atomic:
            raise ValueError(
                f"atomic: must be {known.atomic}, as in another registration of handler {name!r}"
            )
        elif known.max_retries != handler.max_retries:
            raise ValueError(
                f"max_retries: must be {known.max_retries}, as in another registration of handler "
                f"{name!r}"
            )
        else:
            self._handlers[name] = replace(known, patterns=(*known.patterns, *handler.patterns))


def _taken(name: str) -> ValueError:
    return ValueError(
        f"name: must be unique, but another handler is {name!r}; pass name= to register()"
    )


def _is_async(function: HandlerFunction) -> bool:
    called = [function, getattr(function, "__call__", None)]  # noqa: B004  # of an instance
    return any(iscoroutinefunction(each) or isasyncgenfunction(each) for each in called)


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
