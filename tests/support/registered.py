"""Handlers for the time of a block, without those of the other tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from django_broadcaster.registry import HandlerFunction, event_registry


@contextmanager
def only_handlers(handlers: Mapping[str, HandlerFunction] | None = None) -> Iterator[None]:
    """Register handlers of `order.placed` by their names, and no others."""
    known = event_registry._handlers
    event_registry._handlers = {}
    try:
        for name, function in (handlers or {}).items():
            event_registry.register("order.placed", name=name)(function)
        yield
    finally:
        event_registry._handlers = known
