"""The JSON Schema of each declared event: as a document of its own, and as part of AsyncAPI."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from django_broadcaster.typed_events import EventType, event_types

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

EVENT: Final = "x-event"
"""The keyword with the event of a schema, by which the files of the catalogue are known."""

DEFINITIONS: Final = "#/$defs/"
COMPONENTS: Final = "#/components/schemas/"

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]")

_PAGES_OF_NAMES: Final = ("properties", "patternProperties", "$defs")
"""Keywords whose members are named by the project, so that `discriminator` may be a field."""

_VALUES: Final = ("const", "default", "enum", "examples", "required")
"""Keywords whose values are not schemas."""


def schema_name(text: str) -> str:
    """Return a text as the name of a component, and of a file; different texts stay different."""
    return _NOT_IN_NAMES.sub(lambda found: quote(found[0], safe="").replace("%", "-"), text)


def json_schema(declared: EventType[Any]) -> dict[str, Any]:
    """Return the JSON Schema of an event's data, in draft 2020-12.

    Raises:
        ImportError: A library is missing, as for `EventType.schema`.
        TypeError: A field has a type without a JSON Schema.
    """
    schema = declared.schema()
    return {
        "$schema": DIALECT,
        **({"$id": declared.data_schema} if declared.data_schema else {}),
        **schema,
        EVENT: {
            "type": declared.type,
            "version": declared.version,
            "source": declared.source,
            "class": declared.path,
        },
    }


def is_schema_of_catalogue(file: Path) -> bool:
    """Return True for a file with a JSON Schema of `json_schema`."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and isinstance(found.get(EVENT), dict)


def json_schema_of_type(event_type: str) -> dict[str, Any]:
    """Return the JSON Schema of an event type that is declared; raises as `json_schema`."""
    declared = event_types.find_type(event_type)
    return {} if declared is None else json_schema(declared)


def components_of(declared: EventType[Any]) -> dict[str, Any]:
    """Return the schema and its definitions as `components.schemas` of AsyncAPI; raises as above.

    AsyncAPI's own schemas are a superset of draft 07.
    """
    schema = declared.schema()
    definitions = schema.pop("$defs", {})
    name = schema_name(declared.type)

    def reference(target: str) -> str:
        return f"{COMPONENTS}{name}.{schema_name(target.removeprefix(DEFINITIONS))}"

    main = schema.get("$ref", "").removeprefix(DEFINITIONS)
    if main in definitions and not _refers(definitions, f"{DEFINITIONS}{main}"):
        schema = definitions.pop(main)
    found = {name: _as_draft_07(schema, reference)}
    for each, definition in sorted(definitions.items()):
        found[f"{name}.{schema_name(each)}"] = _as_draft_07(definition, reference)
    return found


def _refers(value: Any, reference: str) -> bool:
    if isinstance(value, dict):
        return value.get("$ref") == reference or any(
            _refers(each, reference) for each in value.values()
        )
    return isinstance(value, list) and any(_refers(each, reference) for each in value)


def _as_draft_07(schema: Any, reference: Callable[[str], str]) -> Any:
    """Return a schema in the terms of draft 07, with its references changed."""
    if isinstance(schema, list):
        return [_as_draft_07(each, reference) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword == "$ref":
            found["$ref"] = reference(value)
        elif keyword == "discriminator":  # an object in OpenAPI, and text in AsyncAPI
            continue
        elif keyword in _VALUES:
            found[keyword] = value
        elif keyword in _PAGES_OF_NAMES:
            found[keyword] = {name: _as_draft_07(each, reference) for name, each in value.items()}
        elif keyword == "prefixItems":
            found["items"] = _as_draft_07(value, reference)
        elif keyword == "items" and "prefixItems" in schema:
            found["additionalItems"] = _as_draft_07(value, reference)
        else:
            found[keyword] = _as_draft_07(value, reference)
    return found
