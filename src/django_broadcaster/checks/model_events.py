"""Checks of models with events: missing data, and changes that Django makes without a signal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from django.apps import apps
from django.core.checks import CheckMessage
from django.db import models

from ..check_messages import TAG, Messages, error, warning
from ..model_events import ModelEvents, PublishingQuerySet, model_events
from ..typed_events import event_types

_DB_CASCADE: Final = getattr(models, "DB_CASCADE", None)
"""The database's own cascade, which Django has from version 6.1."""

_SEEN: Final = (models.CASCADE, models.PROTECT, models.RESTRICT, models.DO_NOTHING)


def check_model_events(**_: Any) -> Messages:
    """Check that the events of models have all data, and that the changes can be seen."""
    return [
        problem
        for model in apps.get_models()
        if (declared := model_events.of(model))
        for problem in (
            *_incomplete_events(model, declared),
            *_unseen_querysets(model, declared),
            *_unseen_relations(model, declared),
        )
    ]


def _incomplete_events(
    model: type[models.Model], declared: list[ModelEvents]
) -> Iterator[CheckMessage]:
    for each in declared:
        for event in (each.created, each.updated, each.deleted):
            if each.model is not model or not isinstance(event, type):
                continue
            data = each.data_fields(event)
            try:
                required = event_types.of(event).required_fields
            except NameError:  # `check_typed_events` reports it
                continue
            for name in required:
                if name not in data:
                    yield error(
                        "E056",
                        f"{model.__module__}.{model.__qualname__} publishes {event.__name__}, but "
                        f"its field {name!r} has no value.",
                        f"Add {name!r} to the dictionary 'fields' of @publishes, with the name of "
                        f"the model's field, or give it a default in {event.__name__}.",
                    )


def _unseen_querysets(
    model: type[models.Model], declared: list[ModelEvents]
) -> Iterator[CheckMessage]:
    if not any(each.created or each.updated for each in declared):
        return  # a deletion is seen in every queryset
    for manager in model._meta.managers:
        if not isinstance(manager.get_queryset(), PublishingQuerySet):
            name = f"{model.__module__}.{model.__qualname__}.{manager.name}"
            yield warning(
                "W013",
                f"{name} has no PublishingQuerySet: its update, bulk_update and bulk_create "
                "publish no events.",
                f"Set {manager.name} = PublishingManager(), or let its queryset inherit from "
                "PublishingQuerySet. If it never makes such changes, set "
                f"SILENCED_SYSTEM_CHECKS = ['{TAG}.W013'].",
            )


def _unseen_relations(
    model: type[models.Model], declared: list[ModelEvents]
) -> Iterator[CheckMessage]:
    for each in declared:
        if each.model is not model:
            continue
        for field in model._meta.concrete_fields:
            on_delete = getattr(field.remote_field, "on_delete", None)
            if on_delete is None or on_delete in _SEEN:
                continue
            is_update = on_delete is not _DB_CASCADE and field in each.fields.values()
            if (is_update and each.updated) or (on_delete is _DB_CASCADE and each.deleted):
                name = getattr(on_delete, "__name__", str(on_delete))
                path = f"{model.__module__}.{model.__qualname__}.{field.name}"
                yield warning(
                    "W014",
                    f"{path} has on_delete={name}: if a deletion changes these rows, no events are "
                    "published.",
                    "Change the rows in your code before you delete what they refer to, and set "
                    f"SILENCED_SYSTEM_CHECKS = ['{TAG}.W014'].",
                )
