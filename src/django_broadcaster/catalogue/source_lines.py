"""The line of a field in the source of its class."""

from __future__ import annotations

import ast
import inspect
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from textwrap import dedent
from typing import Any, get_args, get_type_hints

from django_broadcaster.typed_events import event_types

from .changes import Change
from .declared import fields_of


def line_of(event_class: type[Any], path: Sequence[str]) -> str:
    """Return the file and the line of a field, such as `shop/events.py:14`.

    Args:
        event_class: The class.
        path: The names of fields in JSON, from the event inwards. If one is missing, the line is
            that of the class that lacks it.

    Returns:
        The place, or the dotted path of the class if its source can't be read.
    """
    owner, place = event_class, _place(event_class, "")
    owners = [owner]
    for name in path:
        found = [(each, _field_of(each, name)) for each in owners]
        known = [(each, field) for each, field in found if field]
        if not known:
            return _place(owners[0], "") if owners else place
        owner, field = known[0]
        place = next(filter(None, (_line(each, field) for each in _with_bases(owner))), place)
        owners = list(_classes_in(_hints(owner).get(field)))
    return place


def place_of_change(change: Change) -> str:
    """Return the line of the class or model with a change, or its module's file if it is gone."""
    declared = event_types.find_type(change.event_type)
    if declared is not None:
        return line_of(declared.event_class, change.path)
    found = [*fields_of(change.event_type, change.path[0] if change.path else "")]
    for model, field in found:
        for each in _with_bases(model) if field else ():
            if place := _line(each, field):
                return place
    return _place(found[0][0], "") if found else _file_of(change.class_path)


def _file_of(dotted_path: str) -> str:
    """Return the file of the module of a class that may not exist any more."""
    module = dotted_path
    while "." in module:
        module = module.rpartition(".")[0]
        with suppress(ImportError, ValueError, AttributeError):
            spec = find_spec(module)
            if spec is not None and spec.origin:
                return _relative(spec.origin)
    return dotted_path


def _place(event_class: type[Any], field: str) -> str:
    return _line(event_class, field) or f"{event_class.__module__}.{event_class.__qualname__}"


def _line(event_class: type[Any], field: str) -> str:
    """Return the place of a field, or of the class for an empty one; empty if it is not there."""
    try:
        lines, first = inspect.getsourcelines(event_class)
        (tree,) = ast.parse(dedent("".join(lines))).body
        file = inspect.getsourcefile(event_class)
    except (OSError, TypeError, SyntaxError, ValueError):
        return ""
    if not isinstance(tree, ast.ClassDef) or file is None:
        return ""
    at = tree.lineno if not field else None
    for statement in tree.body if field else ():
        if any(isinstance(each, ast.Name) and each.id == field for each in _targets(statement)):
            at = statement.lineno
    return "" if at is None else f"{_relative(file)}:{max(first, 1) + at - 1}"


def _targets(statement: ast.stmt) -> list[ast.expr]:
    """Return what a statement assigns: a field of a class, or one of a model."""
    if isinstance(statement, ast.AnnAssign):
        return [statement.target]
    return statement.targets if isinstance(statement, ast.Assign) else []


def _relative(file: str) -> str:
    path = os.path.relpath(file)
    return file if path.startswith("..") else path


def _with_bases(event_class: type[Any]) -> Iterator[type[Any]]:
    """Yield a class and its bases, also those of a `TypedDict`, which are not in its MRO."""
    yield event_class
    named: Sequence[Any] = getattr(event_class, "__orig_bases__", ())
    for base in (*event_class.__bases__, *named):
        if isinstance(base, type) and base is not object:
            yield from _with_bases(base)


def _field_of(event_class: type[Any], name: str) -> str:
    """Return the field with a name in JSON, which may be an alias; empty if there is none."""
    model_fields: Any = getattr(event_class, "__pydantic_fields__", {})
    for field, info in model_fields.items():
        if name in (info.serialization_alias, info.alias):
            return str(field)
    names: Sequence[str] = getattr(event_class, "__struct_fields__", ())
    encoded: Sequence[str] = getattr(event_class, "__struct_encode_fields__", names)
    if name in encoded:
        return str(names[encoded.index(name)])
    return name if name in _hints(event_class) else ""


def _hints(event_class: type[Any]) -> dict[str, Any]:
    try:
        return get_type_hints(event_class)
    except Exception:  # a type that can't be resolved
        return {}


def _classes_in(hint: Any) -> Iterator[type[Any]]:
    """Yield the classes of a type that have fields, through lists and unions."""
    arguments = get_args(hint)
    if isinstance(hint, type) and not arguments and getattr(hint, "__annotations__", None):
        yield hint
    for each in arguments:
        yield from _classes_in(each)
