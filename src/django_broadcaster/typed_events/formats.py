"""The formats of dates with a time and of keys, which msgspec's JSON Schemas lack.

To msgspec, a `datetime` that need not have a time zone is any text, and so is each key of a
mapping. Without a format, a change between text and such a type could not be seen in the schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints
from uuid import UUID

FORMATS: Final = {datetime: "date-time", time: "time"}
FORMATS_OF_KEYS: Final = {**FORMATS, date: "date", UUID: "uuid"}


def add_formats(schema: dict[str, Any], event_class: type[Any]) -> None:
    """Add the formats to a schema that msgspec has made of a class, with its definitions."""
    _Formats(schema.get("$defs", {})).add(schema, event_class)


class _Formats:
    """Goes along a schema and the types that it was made from."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self._done: set[str] = set()

    def add(self, schema: Any, hint: Any) -> None:
        """Add the formats to the schema of a type."""
        if not isinstance(schema, dict):
            return
        if get_origin(hint) in (Union, UnionType):
            self._add_to_union(schema, get_args(hint))
        elif "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            if name not in self._done:
                self._done.add(name)
                self.add(self._definitions[name], hint)
        elif hint in FORMATS:
            if schema.get("type") == "string":
                schema.setdefault("format", FORMATS[hint])
        elif "properties" in schema and isinstance(hint, type):
            self._add_to_fields(schema["properties"], hint)
        elif arguments := get_args(hint):
            self._add_to_keys(schema, arguments[0])
            self._add_to_items(schema, arguments)

    def _add_to_union(self, schema: dict[str, Any], types: tuple[Any, ...]) -> None:
        for branch in schema.get("anyOf", [schema]):
            name = branch.get("$ref", "").rpartition("/")[2]
            for each in types:
                if not name or name == getattr(each, "__name__", ""):
                    self.add(branch, each)

    def _add_to_fields(self, properties: Mapping[str, Any], owner: type[Any]) -> None:
        hints = get_type_hints(owner)
        names: Any = getattr(owner, "__struct_fields__", tuple(hints))
        encoded: Any = getattr(owner, "__struct_encode_fields__", names)
        for field, name in zip(names, encoded, strict=True):
            self.add(properties.get(name), hints[field])

    def _add_to_keys(self, schema: dict[str, Any], hint: Any) -> None:
        is_mapping = schema.get("type") == "object" and "properties" not in schema
        if is_mapping and hint in FORMATS_OF_KEYS:
            schema.setdefault("propertyNames", {"format": FORMATS_OF_KEYS[hint]})

    def _add_to_items(self, schema: dict[str, Any], arguments: tuple[Any, ...]) -> None:
        self.add(schema.get("items"), arguments[0])
        self.add(schema.get("additionalProperties"), arguments[-1])
        for item, each in zip(schema.get("prefixItems", ()), arguments, strict=False):
            self.add(item, each)
