"""The changes between two catalogues that break consumers.

The data of one version must be read in both directions: new events by the consumers of today, and
today's events, which are still in the outbox, at the broker and in dead letters, by the new class.
So within a version no type, no constraint and no list of values may change in either direction.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from .schema_types import ANY, Schema, alternatives, is_annotation, resolved, target

TYPES: Final = {"array", "boolean", "integer", "null", "number", "object", "string"}

LOWER_LIMITS: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
UPPER_LIMITS: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
OTHER_CONSTRAINTS: Final = (
    "const",
    "contentEncoding",
    "format",
    "multipleOf",
    "pattern",
    "uniqueItems",
)

COMPARED: Final = frozenset(
    (
        *LOWER_LIMITS,
        *UPPER_LIMITS,
        *OTHER_CONSTRAINTS,
        "additionalItems",
        "additionalProperties",
        "enum",
        "items",
        "patternProperties",
        "properties",
        "propertyNames",
        "required",
        "type",
    )
)

OF_MODEL: Final = "model"
"""The part of an event in `x-events` that is True if a model publishes it without a class."""

OLD_READERS: Final = "consumers of today may reject new events"
OLD_EVENTS: Final = "events that are already published may be rejected"


@dataclass(frozen=True, slots=True)
class Change:
    """A change that breaks consumers.

    Args:
        event_type: The event.
        path: The names of fields in JSON that lead to the change; empty for the event as a whole.
        problem: The rule that is broken, beginning with a verb in the third person.
        fix: How to make the change without breaking consumers; an imperative.
        class_path: The dotted path of the class, as the older catalogue has it.
    """

    event_type: str
    path: tuple[str, ...]
    problem: str
    fix: str
    class_path: str

    @property
    def field(self) -> str:
        """The event and the field, such as `order.placed: lines.price`."""
        return f"{self.event_type}: {'.'.join(self.path)}" if self.path else self.event_type


def breaking_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Return the changes from one AsyncAPI document of `asyncapi_document` to another."""
    found = (
        change
        for event_type, before in sorted(old["x-events"].items())
        for change in _changes_of(event_type, before, new["x-events"].get(event_type), old, new)
    )
    return list(dict.fromkeys(found))


def upgraded_events(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return the events with a newer version, each with its old and its new one."""
    found = {}
    for event_type, before in old["x-events"].items():
        after = new["x-events"].get(event_type)
        if after is not None and after["version"] > before["version"]:
            found[event_type] = (before["version"], after["version"])
    return found


def _changes_of(
    event_type: str, before: Schema, after: Schema | None, old: Schema, new: Schema
) -> Iterator[Change]:
    """Yield the changes of one event; `after` is None if it was removed."""
    path = before["class"]
    name = path.rpartition(".")[2]
    if after is None or before["sent"] > after["sent"]:
        problem = "was removed" if after is None else "is no longer sent"
        lost = f"{event_type!r} in @publishes of {name}" if before.get(OF_MODEL) else name
        fix = (
            f"Restore {lost}. If no consumer has a handler for it any more, write the catalogue "
            "again."
        )
        if before["sent"]:
            yield Change(event_type, (), problem, fix, path)
        return
    for problem, fix in (*_missing_upcasters(name, before, after), *_other_source(before, after)):
        yield Change(event_type, (), problem, fix, path)
    if before["version"] == after["version"]:
        version = after["version"]
        fix = (
            f"Undo the change, or set version={version + 1} and add a function with "
            f"@upcasts({name}, from_version={version})."
        )
        if after.get(OF_MODEL):
            fix = f"Undo the change, or publish the new data of {name} with another event type."
        found = _Comparison(old, new).compare(before["schema"], after["schema"], ())
        for fields, problem, result in found:
            if after["sent"] or result == OLD_EVENTS:
                yield Change(event_type, fields, f"{problem}; {result}", fix, path)


def _missing_upcasters(name: str, before: Schema, after: Schema) -> Iterator[tuple[str, str]]:
    """Yield the problem and the fix if events that could be read can't be read any more."""
    was, now = before["version"], after["version"]
    if now < was:
        yield f"has version {now}, after version {was}", f"Set version={was} or higher."
    for version in sorted({*before["upcasters"], *range(was, now)}):
        if version < now and version not in after["upcasters"]:
            yield (
                f"has version {now}, and no upcaster from version {version}",
                f"Add a function with @upcasts({name}, from_version={version}).",
            )


def _other_source(before: Schema, after: Schema) -> Iterator[tuple[str, str]]:
    """Yield the problem and the fix if the source of a sent event is another one."""
    was, now = before["source"], after["source"]
    if was != now and before["sent"] and after["sent"]:
        yield (
            f"has source {now!r}, after {was!r}; consumers identify an event by its source and id",
            f"Set source={was!r}. If no consumer depends on it, write the catalogue again.",
        )


Found = Iterator[tuple[tuple[str, ...], str, str]]


class _Comparison:
    """Compares schemas of two documents, each of which may refer to itself."""

    def __init__(self, old: Schema, new: Schema) -> None:
        self._old = old
        self._new = new
        self._within: set[str] = set()
        """The pairs that are being compared: a class may have fields of its own type."""

    def compare(self, old: Schema | bool, new: Schema | bool, path: tuple[str, ...]) -> Found:
        """Yield the path, the problem and the result of each change."""
        before = alternatives(old, self._old)
        after = alternatives(new, self._new)
        for label in sorted(before.keys() - _including(after)):
            yield path, f"no longer allows {label}", OLD_EVENTS
        for label in sorted(after.keys() - _including(before)):
            yield path, f"also allows {label}", OLD_READERS
        for label in sorted(before.keys() & after.keys()):
            yield from self._same_type(before[label], after[label], path)

    def _same_type(self, old: Schema, new: Schema, path: tuple[str, ...]) -> Found:
        pair = json.dumps((old, new))  # with references, so it ends
        if pair in self._within:
            return
        self._within.add(pair)
        yield from _values(old, new, path)
        yield from _constraints(old, new, path)
        yield from self._members(old, new, path)
        yield from self._keys(old, new, path)
        yield from self._items(old, new, path)
        yield from self._others(old, new, path)
        self._within.discard(pair)

    def _members(self, old: Schema, new: Schema, path: tuple[str, ...]) -> Found:
        before, after = old.get("properties", {}), new.get("properties", {})
        was_required, is_required = set(old.get("required", ())), set(new.get("required", ()))
        for name in before:
            inside = (*path, name)
            if name not in after:
                if name in was_required:
                    yield inside, "was removed", OLD_READERS
                continue
            if name in was_required - is_required:
                yield inside, "was required, and is optional", OLD_READERS
            if name in is_required - was_required:
                yield inside, "was optional, and is required", OLD_EVENTS
            yield from self.compare(before[name], after[name], inside)
        for name in after.keys() - before.keys():
            if name in is_required:
                yield (*path, name), "is new, and has no default", OLD_EVENTS
            elif old.get("additionalProperties", True) is False:
                yield (*path, name), "is new, where unknown fields are forbidden", OLD_READERS
        was_open, is_open = (each.get("additionalProperties", True) for each in (old, new))
        if isinstance(was_open, Mapping) and isinstance(is_open, Mapping):
            yield from self.compare(was_open, is_open, path)
        elif is_open is False and was_open is not False:
            yield path, "forbids unknown fields", OLD_EVENTS
        elif was_open is False and is_open is not False:
            yield path, "no longer forbids unknown fields", OLD_READERS
        elif isinstance(is_open, Mapping) or isinstance(was_open, Mapping):
            yield from self.compare(was_open, is_open, path)

    def _keys(self, old: Schema, new: Schema, path: tuple[str, ...]) -> Found:
        """Compare the names that fields of a mapping may have, and the values of patterns."""
        if "propertyNames" in old or "propertyNames" in new:
            was_allowed, is_allowed = (_key_schema(each, of) for each, of in self._of(old, new))
            for fields, problem, result in self.compare(was_allowed, is_allowed, path):
                yield fields, f"{problem} in its keys", result
        before, after = (each.get("patternProperties", {}) for each in (old, new))
        for pattern in before:
            if pattern in after:
                yield from self.compare(before[pattern], after[pattern], path)
            else:
                yield path, f"no longer has keys of the pattern {pattern!r}", OLD_READERS
        for pattern in after:
            if pattern not in before:
                yield path, f"has keys of the new pattern {pattern!r}", OLD_EVENTS

    def _items(self, old: Schema, new: Schema, path: tuple[str, ...]) -> Found:
        if "items" not in old and "items" not in new:
            return
        before, after = old.get("items", True), new.get("items", True)
        if isinstance(before, list) and isinstance(after, list):
            for was, now in zip(before, after, strict=False):  # other lengths change minItems
                yield from self.compare(was, now, path)
            yield from self.compare(_further_items(old), _further_items(new), path)
        elif isinstance(before, list) or isinstance(after, list):
            yield path, "is another kind of list", OLD_EVENTS
        else:
            yield from self.compare(before, after, path)

    def _others(self, old: Schema, new: Schema, path: tuple[str, ...]) -> Found:
        """Yield other keywords, such as `not`, if they differ: the change may be of any kind."""
        for keyword in sorted(_others_of(old) | _others_of(new)):
            was, now = (_expanded(each.get(keyword), of) for each, of in self._of(old, new))
            if was != now:
                yield path, f"has another {keyword}", OLD_EVENTS

    def _of(self, old: Schema, new: Schema) -> tuple[tuple[Schema, Schema], ...]:
        """Return two schemas, each with its document."""
        return (old, self._old), (new, self._new)


def _values(old: Schema, new: Schema, path: tuple[str, ...]) -> Found:
    before, after = old.get("enum"), new.get("enum")
    if before is None and after is None:
        return
    if after is None:
        yield path, "allows any value, and not only those of a list", OLD_READERS
    elif before is None:
        yield path, "allows only the values of a list", OLD_EVENTS
    else:
        for value in after:
            if value not in before:
                yield path, f"has the new value {value!r}", OLD_READERS
        for value in before:
            if value not in after:
                yield path, f"no longer has the value {value!r}", OLD_EVENTS


def _constraints(old: Schema, new: Schema, path: tuple[str, ...]) -> Found:
    for keyword in (*LOWER_LIMITS, *UPPER_LIMITS):
        was, now = old.get(keyword), new.get(keyword)
        if was == now:
            continue
        if now is None:
            yield path, f"no longer has {keyword} {was}", OLD_READERS
        elif was is None:
            yield path, f"has the new {keyword} {now}", OLD_EVENTS
        else:
            is_narrower = (now > was) == (keyword in LOWER_LIMITS)
            result = OLD_EVENTS if is_narrower else OLD_READERS
            yield path, f"has {keyword} {now}, after {was}", result
    for keyword in OTHER_CONSTRAINTS:
        was, now = old.get(keyword), new.get(keyword)
        if was != now:
            result = OLD_READERS if now is None else OLD_EVENTS
            was_text = "none" if was is None else repr(was)
            now_text = "none" if now is None else repr(now)
            yield path, f"has {keyword} {now_text}, after {was_text}", result


def _others_of(schema: Schema) -> set[str]:
    """Return the keywords that are not compared one by one."""
    return {each for each in schema if each not in COMPARED and not is_annotation(each)}


def _expanded(value: Any, document: Schema, within: tuple[str, ...] = ()) -> Any:
    """Return the value of a keyword with its references replaced, but for those to itself."""
    if isinstance(value, list):
        return [_expanded(each, document, within) for each in value]
    if not isinstance(value, dict):
        return value
    reference = value.get("$ref")
    if isinstance(reference, str) and reference not in within:
        found = {**target(reference, document), **value}
        del found["$ref"]
        return _expanded(found, document, (*within, reference))
    return {name: _expanded(each, document, within) for name, each in value.items()}


def _key_schema(schema: Schema, document: Schema) -> Schema:
    """Return the schema of the keys of a mapping, which are text."""
    return {"type": "string", **resolved(schema.get("propertyNames", True), document)}


def _further_items(schema: Schema) -> Schema | bool:
    """Return the schema of the items after those of a tuple."""
    if schema.get("maxItems") == len(schema["items"]):
        return False
    found: Schema | bool = schema.get("additionalItems", True)
    return found


def _including(alternatives: Mapping[str, Schema]) -> set[str]:
    """Return the types of alternatives, and those that they include."""
    found = set(alternatives)
    if "number" in found:
        found.add("integer")
    if ANY in found:
        found |= TYPES
    return found
