"""The decorator that declares the events of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from django.db import models
from django.db.models.signals import class_prepared

from .declarations import Event, Fields, ModelEvents, model_events
from .receivers import connect

Model = TypeVar("Model", bound=type[models.Model])


def publishes(
    *,
    fields: Fields,
    created: Event | None = None,
    updated: Event | None = None,
    deleted: Event | None = None,
    source: str | None = None,
    key: str | None = None,
) -> Callable[[Model], Model]:
    """Return a decorator that declares the events of a model, and returns the model unchanged.

    An event is an event type, or a class declared by `typed_event`. Its data are the declared
    fields and the primary key; those of a class are read by the class.

    Args:
        fields: The fields in the data, of which a change is an update. A dictionary has the names
            in the data as its keys, such as `{"order_id": "pk", "status": "status"}`.
        created: The event of a new object.
        updated: The event of an object of which a declared field has changed.
        deleted: The event of an object that is deleted, with its last values.
        source: The events' source, a URI reference; needed for event types without a class.
        key: The field with the partition key. Without it, or if it is null, the key is that of the
            event's class, else the primary key.

    Raises:
        InvalidEvent: An event type or `source` breaks the CloudEvents specification.
        ValueError: There is no event, or an unknown field.
        TypeError: The model is abstract, a proxy, or declared already; or it has a composite
            primary key; or an event's class is not declared.
    """

    def declare(model: Model) -> Model:
        model_events.add(
            ModelEvents(
                model,
                created=created,
                updated=updated,
                deleted=deleted,
                source=source,
                fields=fields,
                key=key,
            )
        )
        connect(model)
        return model

    return declare


def _connect_heir(sender: type[models.Model], **_: object) -> None:
    """Connect a proxy or a child of a declared model."""
    if model_events.of(sender):
        connect(sender)


class_prepared.connect(_connect_heir, dispatch_uid="django_broadcaster.model_events")
