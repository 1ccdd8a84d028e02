"""Write the events of changes, one by one or gathered, unless they are suppressed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django.db import connections, models, transaction

from django_broadcaster.publishers import publisher

Keywords = dict[str, Any]
"""The arguments of `publish_event`."""

_suppressed: ContextVar[tuple[type[models.Model], ...]] = ContextVar("suppressed", default=())
_gathered: ContextVar[tuple[str, list[str], list[Keywords]] | None]
_gathered = ContextVar("gathered", default=None)
"""The database, the open savepoints, and the events so far of the current `gathered` block."""


@contextmanager
def suppressed(*of_models: type[models.Model]) -> Iterator[None]:
    """Publish no model events in the block, which is a context manager and a decorator.

    It applies to the current thread or async task only. Publish calls are not suppressed. In an
    async function, use the context manager: a decorator ends before the function is awaited.

    Args:
        of_models: The models whose events are suppressed, with their subclasses; by default all.
    """
    token = _suppressed.set((*_suppressed.get(), *(of_models or (models.Model,))))
    try:
        yield
    finally:
        _suppressed.reset(token)


def is_suppressed(model: type[models.Model]) -> bool:
    """Return True if the model's events are suppressed here."""
    return issubclass(model, _suppressed.get())


@contextmanager
def gathered(using: str) -> Iterator[None]:
    """Write the events of all changes of a block at its end, by one call, in their order.

    Changes within a savepoint of their own write theirs at once, since it may be rolled back alone.
    """
    if _pending(using) is not None:
        yield
        return
    events: list[Keywords] = []
    token = _gathered.set((using, _savepoints(using), events))
    try:
        yield
    finally:
        _gathered.reset(token)
    publish(events, using)


def publish(events: list[Keywords], using: str) -> None:
    """Write events in the transaction of their changes, or at the end of a `gathered` block.

    Raises PublishError. The transaction can then only be rolled back: the changes are made already.
    """
    pending = _pending(using)
    if pending is not None:
        pending.extend(events)
        return
    with transaction.mark_for_rollback_on_error(using):
        if len(events) == 1:
            publisher.publish_event(**events[0], using=using)
        elif events:
            publisher.publish_events(events, using=using)


def _pending(using: str) -> list[Keywords] | None:
    """Return the events of the `gathered` block, if a change made now commits with it."""
    block = _gathered.get()
    if block is None or block[:2] != (using, _savepoints(using)):
        return None
    return block[2]


def _savepoints(using: str) -> list[str]:
    """Return the savepoints that are open; an atomic block without one has None."""
    return list(filter(None, connections[using].savepoint_ids))
