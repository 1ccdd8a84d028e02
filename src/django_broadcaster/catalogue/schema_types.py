"""The types that a schema of a document allows, with its references and unions resolved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from .errors import CatalogueError

Schema = Mapping[str, Any]

ANY: Final = "any value"
ANNOTATIONS: Final = frozenset(
    (
        "$comment",
        "default",
        "deprecated",
        "description",
        "example",
        "examples",
        "readOnly",
        "title",
        "writeOnly",
    )
)
"""Keywords that allow or forbid no value. Those that begin with `x-` are annotations, too."""

COMBINED: Final = frozenset(("$ref", "allOf", "anyOf", "oneOf"))
"""Keywords that refer to other schemas, to which the keywords beside them apply as well."""


def resolved(schema: Schema | bool, document: Schema) -> Schema:
    """Return a schema without references; the keywords beside one apply as well."""
    if isinstance(schema, bool):
        return {} if schema else {"enum": []}
    if "$ref" in schema:
        other = target(schema["$ref"], document)
    elif len(schema.get("allOf", ())) == 1:
        other = schema["allOf"][0]
    else:
        return schema
    return _with_keywords_beside(schema, resolved(other, document))


def target(reference: str, document: Schema) -> Any:
    """Return the part to which a reference points; raises CatalogueError if it is missing."""
    found: Any = document
    for step in reference.removeprefix("#/").split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or name not in found:
            raise CatalogueError(
                f"the catalogue must have {reference}, to which another part refers"
            )
        found = found[name]
    return found


def _with_keywords_beside(schema: Schema, other: Schema) -> Schema:
    """Return a schema that another one refers to, with the keywords beside the reference."""
    beside = {
        keyword: value
        for keyword, value in schema.items()
        if keyword not in COMBINED and not is_annotation(keyword)
    }
    return {**other, **beside}


def is_annotation(keyword: str) -> bool:
    """Return True for a keyword that allows and forbids no value."""
    return keyword in ANNOTATIONS or keyword.startswith("x-")


def alternatives(schema: Schema | bool, document: Schema) -> dict[str, Schema]:
    """Return the types that a schema allows; those that a union has twice, with their titles."""
    labelled = [(label, each) for each in _flat(schema, document) for label in _labels(each)]
    counts = Counter(label for label, _ in labelled)
    found: dict[str, Schema] = {}
    for label, each in labelled:
        title = each.get("title", "") if counts[label] > 1 else ""
        name = f"{label} {title}".rstrip()
        while name in found:
            name += "*"
        found[name] = each
    return found


def _flat(schema: Schema | bool, document: Schema) -> Iterator[Schema]:
    """Yield the members of a union, and of the unions within it; else the schema itself."""
    whole = resolved(schema, document)
    union = whole.get("anyOf") or whole.get("oneOf")
    if not union:
        yield whole
        return
    for each in union:
        for found in _flat(each, document):
            yield _with_keywords_beside(whole, found)


def _labels(schema: Schema) -> list[str]:
    """Return the types that a schema allows."""
    given = schema.get("type")
    if given is None and "enum" in schema:
        return sorted({type_of(each) for each in schema["enum"]}) or ["nothing"]
    if given is None and "const" in schema:
        return [type_of(schema["const"])]
    if given is None and "properties" in schema:
        return ["object"]
    if given is None:
        return [ANY]
    return [given] if isinstance(given, str) else list(given)


def type_of(value: object) -> str:
    """Return the type of a JSON value, as JSON Schema names it."""
    if value is None:
        return "null"
    for kind, name in (
        (bool, "boolean"),
        (str, "string"),
        (int, "integer"),
        (float, "number"),
        (list, "array"),
    ):
        if isinstance(value, kind):
            return name
    return "object"
