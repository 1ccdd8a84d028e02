"""Write the events of changes, one by one or gathered, unless they are suppressed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from django.db import connections, models, transaction

from django_broadcaster.publishers import publisher

from .rows import Row

Keywords = dict[str, Any]
"""The arguments of `publish_event`."""

_suppressed: ContextVar[tuple[type[models.Model], ...]] = ContextVar("suppressed", default=())


@dataclass(frozen=True)
class Block:
    """The events and rows of a `gathered` block so far."""

    using: str
    savepoints: list[str]
    """The savepoints that were open at its beginning."""
    outer: Block | None
    events: list[Keywords] = field(default_factory=list)
    locked: dict[type[models.Model], dict[Any, Row]] = field(default_factory=dict)
    """Rows that are locked and unchanged since they were read, by model and primary key."""
    deleted: set[tuple[type[models.Model], Any]] = field(default_factory=set)
    """The rows whose deletion is in `events`, by model and primary key."""


_gathered: ContextVar[Block | None] = ContextVar("gathered", default=None)


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
def gathered(using: str) -> Iterator[Block]:
    """Write the events of all changes of a block at its end, by one call, in their order.

    Changes within a savepoint of their own write theirs at once, since it may be rolled back alone.
    """
    block = current_block(using)
    if block is not None:
        yield block
        return
    block = Block(using, _savepoints(using), _gathered.get())
    token = _gathered.set(block)
    try:
        yield block
    finally:
        _gathered.reset(token)
    publish(block.events, using)


def publish(events: list[Keywords], using: str) -> None:
    """Write events in the transaction of their changes, or at the end of a `gathered` block.

    Raises PublishError. The transaction can then only be rolled back: the changes are made already.
    """
    block = current_block(using)
    if block is not None:
        block.events.extend(events)
        return
    with transaction.mark_for_rollback_on_error(using):
        if len(events) == 1:
            publisher.publish_event(**events[0], using=using)
        elif events:
            publisher.publish_events(events, using=using)


def current_block(using: str) -> Block | None:
    """Return the `gathered` block, if a change made now commits with it."""
    block = _gathered.get()
    if block is None or (block.using, block.savepoints) != (using, _savepoints(using)):
        return None
    return block


def forget_rows(model: type[models.Model], using: str, pks: Collection[Any] | None = None) -> None:
    """Forget locked rows that were changed since they were read, by default all of a model.

    They are read again if they are needed. So this is right even if the change is rolled back.
    """
    block = _gathered.get()
    while block is not None:
        if block.using == using:
            rows = block.locked.get(model, {})
            for pk in list(rows) if pks is None else pks:
                rows.pop(pk, None)
        block = block.outer


def _savepoints(using: str) -> list[str]:
    """Return the savepoints that are open; an atomic block without one has None."""
    return list(filter(None, connections[using].savepoint_ids))
