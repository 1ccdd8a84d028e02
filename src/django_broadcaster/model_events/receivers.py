"""Publish the events of `save` and `delete`, by the signals that Django sends for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db import connections, models
from django.db.models.signals import ModelSignal, post_delete, post_save, pre_delete, pre_save

from django_broadcaster.exceptions import WrongTransaction
from django_broadcaster.publishing import has_transaction

from .declarations import ModelEvents, model_events
from .publication import Keywords, current_block, forget_rows, is_suppressed, publish
from .rows import Row, read_rows

_BEFORE = "_django_broadcaster_before"
"""The attribute of an object's `_state` with its rows before a save or a deletion, by model."""


def connect(model: type[models.Model]) -> None:
    """Connect the signals of a model for its own declaration, and those that it inherits."""
    for signal, receiver in _receivers(model):
        signal.connect(receiver, sender=model)


def _receivers(model: type[models.Model]) -> list[tuple[ModelSignal, Any]]:
    """Return the signals that the model needs; a receiver of deletions makes these slower."""
    found: list[tuple[ModelSignal, Any]] = []
    if any(each.created or each.updated for each in model_events.of(model)):
        found += [(pre_save, _before_save), (post_save, _after_save)]
    if any(each.deleted and each.is_table_of(model) for each in model_events.of(model)):
        found += [(pre_delete, _before_delete), (post_delete, _after_delete)]
    if any(each.deleted for each in model_events.of(model)):
        found += [(post_save, _forget)]
    return found


def _before_save(
    sender: type[models.Model],
    instance: models.Model,
    raw: bool,
    using: str,
    update_fields: Iterable[str] | None,
    **_: Any,
) -> None:
    """Read and lock the rows that the save may change; raises WrongTransaction."""
    instance._state.__dict__.pop(_BEFORE, None)
    concerned = [each for each in _published_by(sender, raw) if each.saves(update_fields)]
    if not concerned:
        return
    if not has_transaction(connections[using]):
        raise WrongTransaction(
            f"{sender._meta.label} is saved outside of a transaction, so its event would not "
            "commit with it; wrap the call in transaction.atomic(), or let the model inherit from "
            "PublishingModel"
        )
    before = {
        each.model: _row(each, instance, using)
        for each in concerned
        if each.updated or (each.created and not each.is_table_of(sender))
    }
    setattr(instance._state, _BEFORE, before)


def _after_save(
    sender: type[models.Model],
    instance: models.Model,
    raw: bool,
    using: str,
    created: bool,
    update_fields: Iterable[str] | None,
    **_: Any,
) -> None:
    """Publish `created`, or `updated` if a declared field has another value than before."""
    before: dict[type[models.Model], Row | None]
    before = instance._state.__dict__.pop(_BEFORE, {})
    events: list[Keywords] = []
    for each in _published_by(sender, raw):
        old = before.get(each.model)
        # A child may be created for a row of its parent that exists already.
        event = each.created if created and old is None else each.updated
        if event is None or not each.saves(update_fields):
            continue
        new = _row(each, instance, using, lock=not created)
        if new is not None and each.differ(old, new):
            events.append(each.event(event, new))
    publish(events, using)


def _before_delete(
    sender: type[models.Model], instance: models.Model, using: str, **_: Any
) -> None:
    """Lock the row, and keep its last values: after the deletion it can't be read.

    A `PublishingQuerySet` has locked its rows, in few statements. Other rows are read one by one:
    those of cascades, those that were not in the queryset yet, and those that were changed since.
    """
    block = current_block(using)
    rows: dict[type[models.Model], Row | None] = {}
    for each in _deletions(sender):
        row = block.locked.get(each.model, {}).get(instance.pk) if block else None
        if row is None:
            row = _row(each, instance, using, deletes=True)
        if row is not None and block:
            block.deleted.discard((each.model, row[each.pk]))
        rows[each.model] = row
    setattr(instance._state, _BEFORE, rows)


def _after_delete(sender: type[models.Model], instance: models.Model, using: str, **_: Any) -> None:
    """Publish `deleted`, unless another transaction or a receiver had deleted the row already."""
    _forget(sender, instance, using)
    rows: dict[type[models.Model], Row | None]
    rows = instance._state.__dict__.pop(_BEFORE, {})
    block = current_block(using)
    events: list[Keywords] = []
    for each in _deletions(sender):
        row = rows.get(each.model)
        if row is None or each.deleted is None:
            continue
        if block:
            identity = each.model, row[each.pk]
            if identity in block.deleted:
                continue
            block.deleted.add(identity)
        events.append(each.event(each.deleted, row))
    publish(events, using)


def _forget(sender: type[models.Model], instance: models.Model, using: str, **_: Any) -> None:
    """Forget the row that a deletion around this change has read."""
    for each in model_events.of(sender):
        pk = each.model._meta.pk.to_python(getattr(instance, each.pk, instance.pk))
        forget_rows(each.model, using, [pk])


def _deletions(sender: type[models.Model]) -> list[ModelEvents]:
    """Return the declarations that a deletion of a row of this table publishes."""
    published = _published_by(sender, raw=False)
    return [each for each in published if each.deleted and each.is_table_of(sender)]


def _published_by(sender: type[models.Model], raw: bool) -> list[ModelEvents]:
    """Return the declarations that apply to a change; none for a fixture."""
    if raw:
        return []
    return [each for each in model_events.of(sender) if not is_suppressed(sender)]


def _row(
    declared: ModelEvents,
    instance: models.Model,
    using: str,
    *,
    lock: bool = True,
    deletes: bool = False,
) -> Row | None:
    """Return the declared fields of an object's row; None if it has none.

    An object that was not loaded may have a row all the same: only a save can take it as new.
    """
    pk = getattr(instance, declared.pk, None)
    if pk is None:  # a child that has only the link to its parent
        pk = instance.pk
    is_new = not deletes and instance._state.adding and declared.is_table_of(type(instance))
    if pk is None or (is_new and declared.has_own_pk):
        return None
    rows = read_rows(declared.model, [pk], declared.names, using, lock=lock, deletes=deletes)
    return next(iter(rows.values()), None)
