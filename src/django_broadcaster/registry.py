"""Which handlers an event has: event type patterns to functions.

Imports before `django.setup()`, so that any module may register its handlers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import TypeVar

from .events import CloudEvent

HandlerFunction = Callable[[CloudEvent], object]
F = TypeVar("F", bound=HandlerFunction)


@dataclass(frozen=True, slots=True)
class Handler:
    """A registered function. `name` is its identity in the inbox: renaming it runs it again."""

    name: str
    function: HandlerFunction
    patterns: tuple[str, ...]

    def matches(self, event_type: str) -> bool:
        """Tell whether one of the patterns matches the whole event type, in its exact case."""
        return any(fnmatchcase(event_type, pattern) for pattern in self.patterns)


class EventRegistry:
    """Handlers by event type pattern, in the order of their registration."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def register(self, pattern: str, *, name: str | None = None) -> Callable[[F], F]:
        """Return a decorator that registers a handler for event types that match `pattern`.

        `pattern` is a shell-style pattern: `order.placed`, `order.*`, `*`; a function registered
        for several runs once for an event. `name` identifies the handler in the inbox and
        defaults to the function's dotted path. Raises ValueError for an empty pattern, or a name
        that another function has, and TypeError for what would run nothing when it is called: an
        async function, a generator.
        """
        if not isinstance(pattern, str):
            raise TypeError("pattern: write @event_registry.register('order.*'), with a pattern")
        if not pattern:
            raise ValueError("pattern: an event type or a pattern such as 'order.*' is needed")

        def decorate(function: F) -> F:
            if _is_async(function):
                raise TypeError("handlers are not async; wrap this one in async_to_sync()")
            if isgeneratorfunction(function):
                raise TypeError("handlers do not yield: calling a generator runs nothing of it")
            self._add(function, pattern, name or _path_of(function))
            return function

        return decorate

    def handlers_for(self, event_type: str) -> list[Handler]:
        """Return the handlers whose pattern matches the event type."""
        return [handler for handler in self._handlers.values() if handler.matches(event_type)]

    def unregister(self, name: str) -> None:
        """Forget the handler of that name; raises KeyError when there is none."""
        del self._handlers[name]

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._handlers.values())

    def __len__(self) -> int:
        return len(self._handlers)

    def _add(self, function: HandlerFunction, pattern: str, name: str) -> None:
        known = self._handlers.get(name)
        if known is None:
            self._handlers[name] = Handler(name, function, (pattern,))
        elif known.function is function:
            self._handlers[name] = replace(known, patterns=(*known.patterns, pattern))
        else:
            raise ValueError(
                f"name: another handler {name!r} is registered already; pass name= to register()"
            )


def _is_async(function: HandlerFunction) -> bool:
    called = [function, getattr(function, "__call__", None)]  # noqa: B004  # of an instance
    return any(iscoroutinefunction(each) or isasyncgenfunction(each) for each in called)


def _path_of(function: HandlerFunction) -> str:
    """Return a function's dotted path; that of what `async_to_sync()` or `partial()` has wrapped.

    Raises TypeError for what has none.
    """
    for attribute in ("__wrapped__", "awaitable", "func"):
        if not hasattr(function, "__qualname__"):
            function = getattr(function, attribute, function)
    if not hasattr(function, "__qualname__"):
        raise TypeError(f"name: {type(function).__name__} has none; pass name= to register()")
    return f"{function.__module__}.{function.__qualname__}"


event_registry = EventRegistry()
"""What `LocalBackend` and the consumers run; each app's `event_handlers.py` fills it."""
