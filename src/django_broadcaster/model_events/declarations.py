"""The declarations of models' events, and their registry."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from django.core.exceptions import FieldDoesNotExist
from django.db import models

from django_broadcaster.events import check_source
from django_broadcaster.exceptions import InvalidEvent
from django_broadcaster.typed_events import check_type, event_types, keywords_of

from .publication import Keywords
from .rows import Row

__all__ = ["Event", "Fields", "ModelEvents", "ModelEventsRegistry", "model_events"]

Event = str | type[Any]
"""An event type, or a declared class."""

Fields = Sequence[str] | Mapping[str, str]
"""The names of fields; or these by their names in the events."""


class ModelEvents:
    """The events of a model. The arguments are those of `publishes`, which says what it raises."""

    def __init__(
        self,
        model: type[models.Model],
        *,
        created: Event | None,
        updated: Event | None,
        deleted: Event | None,
        source: str | None,
        fields: Fields,
        key: str | None,
    ) -> None:
        _check_model(model)
        self.model = model
        events = {"created": created, "updated": updated, "deleted": deleted}
        for argument, event in events.items():
            _check_event(argument, event)
        if not any(events.values()):
            raise ValueError("created, updated, deleted: must not all be None")
        self.created, self.updated, self.deleted = created, updated, deleted
        self.source = None if source is None else check_source(source)
        if source is None and any(isinstance(each, str) for each in events.values()):
            raise InvalidEvent("source", "must be given, since an event has no class that has it")
        self.fields = {
            name: _field(model, "fields", field) for name, field in _by_name(fields).items()
        }
        if updated is not None and not self.fields:
            raise ValueError("fields: must not be empty, since 'updated' depends on them")
        self.key = None if key is None else _field(model, "key", key)
        self._pk: Final[models.Field[Any, Any]] = model._meta.pk
        self._is_computed = any(getattr(each, "generated", False) for each in self.fields.values())
        used = [self._pk, *self.fields.values(), *([self.key] if self.key else [])]
        self.names: Collection[str] = tuple(dict.fromkeys(each.attname for each in used))
        """The attributes of all fields that events need."""

    def __repr__(self) -> str:
        return f"<ModelEvents of {self.model._meta.label}>"

    @property
    def pk(self) -> str:
        """The attribute of the primary key."""
        return self._pk.attname

    @property
    def has_own_pk(self) -> bool:
        """Whether new objects have a primary key that no row has, such as a UUID."""
        return self._pk.has_default() or self._pk.has_db_default()

    def is_table_of(self, model: type[models.Model]) -> bool:
        """Return True for the model and its proxies, and False for a child of it."""
        return model._meta.concrete_model is self.model

    def saves(self, names: Iterable[str] | None) -> bool:
        """Return True if a change of these fields, or of all, may change a declared field."""
        if names is None or self._is_computed:
            return True
        changed = set(names)
        return any(each.name in changed or each.attname in changed for each in self.fields.values())

    def differ(self, old: Row | None, new: Row) -> bool:
        """Return True if a declared field differs, or if the old row is unknown."""
        if old is None:
            return True
        return any(old[each.attname] != new[each.attname] for each in self.fields.values())

    def data_fields(self, event: Event) -> Mapping[str, models.Field[Any, Any]]:
        """Return the fields in the data of an event, by name; the primary key is added to them."""
        if isinstance(event, str):
            is_added = self._pk not in self.fields.values()
        else:
            is_added = self.pk in event_types.of(event).fields
        return {self.pk: self._pk, **self.fields} if is_added else self.fields

    def event(self, event: Event, row: Row) -> Keywords:
        """Return the arguments of the publish call for a row; raises InvalidEvent."""
        used = self.data_fields(event)
        data = {name: each.get_prep_value(row[each.attname]) for name, each in used.items()}
        pk = row[self.pk]
        key = None if self.key is None else row[self.key.attname]
        if isinstance(event, str):
            return {
                "event_type": event,
                "source": self.source,
                "data": data,
                "subject": str(pk),
                "partition_key": str(pk if key is None else key),
            }
        declared = event_types.of(event)
        if key is None and declared.key is None:
            key = pk
        return keywords_of(
            event,
            declared.of_values(data),
            source=self.source,
            subject=str(pk) if declared.subject is None else None,
            partition_key=None if key is None else str(key),
        )


class ModelEventsRegistry:
    """The declarations of this process, in their order; iterable, with a length."""

    def __init__(self) -> None:
        self._by_model: dict[type[models.Model], ModelEvents] = {}

    def __iter__(self) -> Iterator[ModelEvents]:
        return iter(tuple(self._by_model.values()))

    def __len__(self) -> int:
        return len(self._by_model)

    def add(self, declared: ModelEvents) -> None:
        """Add a declaration; raises TypeError if the model has one."""
        if declared.model in self._by_model:
            raise TypeError(f"{declared.model._meta.label} has @publishes already; use it once")
        self._by_model[declared.model] = declared

    def remove(self, model: type[models.Model]) -> None:
        """Forget a model, which publishes nothing from now on; raises KeyError."""
        del self._by_model[model]

    def of(self, model: type[models.Model]) -> list[ModelEvents]:
        """Return the declarations of a model and of its parents, its own first."""
        return [self._by_model[each] for each in model.__mro__ if each in self._by_model]


model_events = ModelEventsRegistry()
"""The declarations of this process."""


def _check_model(model: object) -> None:
    """Raise TypeError unless the model has a table of its own, and one primary key."""
    if not (isinstance(model, type) and issubclass(model, models.Model)):
        raise TypeError(f"@publishes must decorate a model, not {model!r}")
    meta, label = model._meta, f"{model.__module__}.{model.__qualname__}"
    if meta.abstract:
        raise TypeError(f"{label} is abstract; decorate the models that inherit from it")
    if meta.proxy:
        raise TypeError(
            f"{label} is a proxy; decorate the model with the table, which publishes the changes "
            "of its proxies, too"
        )
    if isinstance(meta.pk, models.CompositePrimaryKey):
        raise TypeError(f"{label} has a composite primary key, which @publishes does not support")


def _check_event(argument: str, event: object) -> None:
    if isinstance(event, type):
        event_types.of(event)
    elif event is not None:
        check_type(argument, event)


def _by_name(fields: Fields) -> Mapping[str, str]:
    """Return the model's fields by their names in events."""
    if isinstance(fields, Mapping):
        return fields
    if isinstance(fields, str):
        raise TypeError(f"fields: must be a list of names, not the text {fields!r}")
    return {name: name for name in fields}


def _field(model: type[models.Model], argument: str, name: str) -> models.Field[Any, Any]:
    """Return a field by its name, by that of its attribute, or by `pk`; raises ValueError."""
    meta = model._meta
    try:
        field = meta.pk if name == "pk" else meta.get_field(name)
    except FieldDoesNotExist:
        field = None
    if not isinstance(field, models.Field) or not field.concrete or field.many_to_many:
        known = ", ".join(each.name for each in meta.concrete_fields)
        raise ValueError(
            f"{argument}: must name fields of {model.__qualname__} that have a column, not "
            f"{name!r}; these are {known}"
        )
    return field
