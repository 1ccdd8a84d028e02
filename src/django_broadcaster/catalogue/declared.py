"""The events of the catalogue: those of declared classes, and event types that models publish.

The data of a model's event type are fields of the model, so their types are known. Its schema says
no more than what every database enforces: neither choices nor the length of a text.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings
from django.db import models

from django_broadcaster.model_events import ModelEvents, model_events
from django_broadcaster.typed_events import VERSION, EventType, event_types

Schema = dict[str, Any]

ANYTHING: Final[Schema] = {}

SCHEMAS: Final[Mapping[type[models.Field[Any, Any]], Schema]] = {
    models.BooleanField: {"type": "boolean"},
    models.IntegerField: {"type": "integer"},
    models.FloatField: {"type": "number"},
    models.DecimalField: {"type": "string"},
    models.DateTimeField: {"type": "string", "format": "date-time"},
    models.DateField: {"type": "string", "format": "date"},
    models.TimeField: {"type": "string"},
    models.DurationField: {"type": "string", "format": "duration"},
    models.UUIDField: {"type": "string", "format": "uuid"},
    models.CharField: {"type": "string"},
    models.TextField: {"type": "string"},
    models.FileField: {"type": "string"},
    models.FilePathField: {"type": "string"},
    models.GenericIPAddressField: {"type": "string"},
}
"""The JSON of the values of Django's fields; a subclass stands before the class that it extends.

JSON Schema's own formats of times have a time zone.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredEvent:
    """An event of the catalogue.

    Args:
        type: The event type.
        source: The attribute `source`.
        version: The version of the data.
        upcasters: The older versions that can be read.
        path: The dotted path of the class or the model.
        title: The name of the class or the model.
        description: Its docstring; empty for none.
        data_schema: The attribute `dataschema`; empty for none.
        extensions: The extensions that each event has.
        has_key: Whether events may have a partition key.
        has_subject: Whether events may have a subject.
        is_of_model: Whether a model publishes it as an event type, without a class.
        schema: Returns the JSON Schema of the data; raises ImportError or TypeError.
    """

    type: str
    source: str
    version: int
    upcasters: list[int]
    path: str
    title: str
    description: str
    data_schema: str
    extensions: Mapping[str, Any]
    has_key: bool
    has_subject: bool
    is_of_model: bool
    schema: Callable[[], Schema]


def declared_events() -> dict[str, DeclaredEvent]:
    """Return the declared events by their types, in the order of these."""
    found = {each.type: _of_class(each) for each in event_types}
    for event_type, declarations in _of_models().items():
        if event_type not in found:
            found[event_type] = _of_declarations(event_type, declarations)
    return dict(sorted(found.items()))


def fields_of(event_type: str, name: str) -> Iterator[tuple[type[models.Model], str]]:
    """Yield each model that publishes an event type, with its field for a name in the data.

    The field is empty if the event has no such data.
    """
    for declared in _of_models().get(event_type, ()):
        field = declared.data_fields(event_type).get(name)
        yield declared.model, "" if field is None else field.name


def _of_models() -> Mapping[str, list[ModelEvents]]:
    """Return the declarations with each event type, in the order of the models' names."""
    found: dict[str, list[ModelEvents]] = defaultdict(list)
    for declared in sorted(model_events, key=lambda each: _path(each.model)):
        types = (declared.created, declared.updated, declared.deleted)
        for event_type in dict.fromkeys(each for each in types if isinstance(each, str)):
            found[event_type].append(declared)
    return found


def _of_class(declared: EventType[Any]) -> DeclaredEvent:
    missing = declared.versions_without_upcaster()
    return DeclaredEvent(
        type=declared.type,
        source=declared.source,
        version=declared.version,
        upcasters=[each for each in range(1, declared.version) if each not in missing],
        path=declared.path,
        title=declared.event_class.__name__,
        description=_docstring_of(declared.event_class),
        data_schema=declared.data_schema,
        extensions={VERSION: declared.version},
        has_key=declared.key is not None,
        has_subject=declared.subject is not None,
        is_of_model=False,
        schema=declared.schema,
    )


def _of_declarations(event_type: str, declarations: list[ModelEvents]) -> DeclaredEvent:
    """Return an event type of one model, or of several."""
    model = declarations[0].model
    return DeclaredEvent(
        type=event_type,
        source=" or ".join(dict.fromkeys(str(each.source) for each in declarations)),
        version=1,
        upcasters=[],
        path=_path(model),
        title=model.__name__,
        description=_docstring_of(model),
        data_schema="",
        extensions={},
        has_key=True,
        has_subject=True,
        is_of_model=True,
        schema=lambda: _one_of(_schema(each, event_type) for each in declarations),
    )


def _path(model: type[models.Model]) -> str:
    return f"{model.__module__}.{model.__qualname__}"


def _docstring_of(event_class: type[Any]) -> str:
    """Return the docstring of a class; empty if it has none."""
    text = inspect.cleandoc(event_class.__doc__ or "")
    # A dataclass or a model without a docstring has a text of its signature.
    return "" if text.startswith(f"{event_class.__name__}(") else text


def _one_of(schemas: Iterable[Schema]) -> Schema:
    """Return a schema that allows what any of these does."""
    different: list[Schema] = []
    for each in schemas:
        if each not in different:
            different.append(each)
    return different[0] if len(different) == 1 else {"anyOf": different}


def _schema(declared: ModelEvents, event_type: str) -> Schema:
    fields = declared.data_fields(event_type)
    return {
        "title": declared.model.__name__,
        "type": "object",
        "properties": {name: _schema_of(field) for name, field in fields.items()},
        "required": [*fields],
    }


def _schema_of(field: models.Field[Any, Any]) -> Schema:
    """Return the schema of a field; one that allows everything if nothing is known."""
    schema = _schema_of_value(field)
    if not field.null or not schema:
        return schema
    return {**schema, "type": [schema["type"], "null"]}


def _schema_of_value(field: models.Field[Any, Any]) -> Schema:
    if isinstance(field, models.ForeignKey):
        return _schema_of_value(field.target_field)
    if isinstance(field, models.GeneratedField):
        output: Any = field.output_field
        return _schema_of_value(output)
    if _changes_values(field):
        return ANYTHING
    items = getattr(field, "base_field", None)
    if isinstance(items, models.Field):  # an ArrayField, whose module needs PostgreSQL's client
        return {"type": "array", "items": _schema_of(items)}
    if isinstance(field, models.DateTimeField) and not settings.USE_TZ:
        return {"type": "string"}
    found = (schema for kind, schema in SCHEMAS.items() if isinstance(field, kind))
    return next(found, ANYTHING)


def _changes_values(field: models.Field[Any, Any]) -> bool:
    """Return True if a project's own field may read or write other values than Django's."""
    methods = (type(field).get_prep_value, getattr(type(field), "from_db_value", None))
    return any(each and not each.__module__.startswith("django.") for each in methods)
