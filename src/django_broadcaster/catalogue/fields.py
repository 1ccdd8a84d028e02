"""The fields of an event, as a table for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from .schema_types import Schema, alternatives, resolved

LIMITS: Final = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "pattern": "pattern {}",
    "contentEncoding": "{}",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
}
"""The constraints of a type in words, in the order in which they are shown."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an event, or of a class within it.

    Args:
        name: The names in JSON from the event inwards, such as `lines.price`.
        type: The types of JSON that it allows, with their constraints.
        required: Whether an event must have it.
        description: The description in the schema; empty if there is none.
        default: The default as JSON; empty if there is none.
    """

    name: str
    type: str
    required: bool
    description: str
    default: str

    def cells(self) -> dict[str, str]:
        """Return the cells of the field's row in a table, by their columns."""
        default = f", default {self.default}" if self.default else ""
        return {
            "Field": self.name,
            "Type": self.type,
            "Required": f"{'yes' if self.required else 'no'}{default}",
            "Description": self.description,
        }


def fields_of(schema: Schema, document: Mapping[str, Any]) -> list[Field]:
    """Return the fields of an event, each followed by the fields of its own class.

    The fields of a class that refers to itself are listed once.

    Args:
        schema: The schema of the event's data, or a reference to it.
        document: The AsyncAPI document with the schemas to which others refer.
    """
    return list(_fields(schema, document, "", ()))


def _fields(
    schema: Schema | bool, document: Schema, path: str, within: tuple[str, ...]
) -> Iterator[Field]:
    for each in alternatives(schema, document).values():
        of = json.dumps(each)  # with references, so it ends
        if of not in within:
            yield from _members(each, document, path, (*within, of))


def _members(
    schema: Schema, document: Schema, path: str, within: tuple[str, ...]
) -> Iterator[Field]:
    required = schema.get("required", ())
    for name, member in schema.get("properties", {}).items():
        inside = f"{path}.{name}" if path else name
        target = resolved(member, document)
        described = member if isinstance(member, Mapping) and "description" in member else target
        default = member if isinstance(member, Mapping) and "default" in member else target
        yield Field(
            name=inside,
            type=_type(member, document),
            required=name in required,
            description=" ".join(described.get("description", "").split()),
            default=_json(default["default"]) if "default" in default else "",
        )
        yield from _fields(member, document, inside, within)
    for inner in (*_items(schema), *_values(schema)):
        yield from _fields(inner, document, path, within)


def _type(schema: Schema | bool, document: Schema, *, is_inner: bool = False) -> str:
    """Return the types of a schema in words."""
    found = alternatives(schema, document).items()
    texts = dict.fromkeys(_one_type(label, each, document) for label, each in found)
    text = " or ".join(texts)
    return f"({text})" if is_inner and len(texts) > 1 else text


def _one_type(label: str, schema: Schema, document: Schema) -> str:
    kind = label.rstrip("*")
    if "const" in schema:
        return _json(schema["const"])
    if schema.get("enum"):
        return " or ".join(_json(each) for each in schema["enum"])
    text = kind
    if kind == "array" and (items := list(_items(schema))):
        text = f"array of {', '.join(_type(each, document, is_inner=True) for each in items)}"
    elif kind == "object" and not schema.get("properties") and (inner := list(_values(schema))):
        text = f"object with values of {_type(inner[0], document, is_inner=True)}"
    notes = [schema["format"]] if "format" in schema else []
    # A tuple's types are its limits.
    limits = {} if isinstance(schema.get("items"), list) else LIMITS
    notes += [words.format(schema[each]) for each, words in limits.items() if each in schema]
    if schema.get("uniqueItems"):
        notes.append("no item twice")
    return f"{text} ({', '.join(notes)})" if notes else text


def _items(schema: Schema) -> Iterator[Schema | bool]:
    """Yield the schemas of a list's items: one, or those of a tuple."""
    items = schema.get("items", [])
    yield from items if isinstance(items, list) else [items]


def _values(schema: Schema) -> Iterator[Schema]:
    """Yield the schemas of a mapping's values."""
    others = schema.get("additionalProperties")
    yield from [others] if isinstance(others, Mapping) else []
    yield from schema.get("patternProperties", {}).values()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
