"""The JSON Schema of each declared event: as a document of its own, and as part of AsyncAPI."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from .declared import DeclaredEvent, declared_events
from .names import Names, schema_name

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

EVENT: Final = "x-event"
"""The keyword with the event of a schema, by which the files of the catalogue are known."""

DEFINITIONS: Final = "#/$defs/"
COMPONENTS: Final = "#/components/schemas/"

_PAGES_OF_NAMES: Final = ("properties", "patternProperties", "$defs")
"""Keywords whose members are named by the project, so that `discriminator` may be a field."""

_VALUES: Final = ("const", "default", "enum", "examples", "required")
"""Keywords whose values are not schemas."""


def json_schema(declared: DeclaredEvent) -> dict[str, Any]:
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


def schema_files() -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of each declared event by the name of its file.

    Raises:
        CatalogueError: Two events have the same name of a file, if only on a file system that
            ignores case.
        ImportError: A library is missing, as for `EventType.schema`.
        TypeError: A field has a type without a JSON Schema.
    """
    names = Names(ignore_case=True)
    return {
        f"{names.add(each.type, owner_of(each.type))}.json": json_schema(each)
        for each in declared_events().values()
    }


def owner_of(event_type: str) -> str:
    """Return an event in the words of an error."""
    return f"event {event_type!r}"


def is_schema_of_catalogue(file: Path) -> bool:
    """Return True for a file with a JSON Schema of `json_schema`."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and isinstance(found.get(EVENT), dict)


def schema_text(event_type: str) -> str:
    """Return the JSON Schema of an event type that is declared; raises as `json_schema`."""
    declared = declared_events().get(event_type)
    schema = {} if declared is None else json_schema(declared)
    return json.dumps(schema, indent=2, ensure_ascii=False)


def components_of(declared: DeclaredEvent) -> Iterator[tuple[str, str, Any]]:
    """Yield the schema and its definitions as `components.schemas` of AsyncAPI; raises as above.

    AsyncAPI's own schemas are a superset of draft 07. Each has the text of its name, and its owner
    for `Names`.
    """
    schema = declared.schema()
    definitions = schema.pop("$defs", {})

    def reference(target: str) -> str:
        return f"{COMPONENTS}{schema_name(text_of(target.removeprefix(DEFINITIONS)))}"

    def text_of(definition: str) -> str:
        return f"{declared.type}.{definition}"

    main = schema.get("$ref", "").removeprefix(DEFINITIONS)
    if main in definitions and not _refers(definitions, f"{DEFINITIONS}{main}"):
        schema = definitions.pop(main)
    owner = owner_of(declared.type)
    yield declared.type, owner, _as_draft_07(schema, reference)
    for each, definition in sorted(definitions.items()):
        yield text_of(each), f"class {each} of {owner}", _as_draft_07(definition, reference)


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
