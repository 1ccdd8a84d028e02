"""Values that match a part, and the differences between values, path by path."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from django_broadcaster.events import encode_data

MISSING = object()
"""Stands for a value that one of two mappings does not have."""

_JSON = (str, int, float, bool, type(None))


def containing(expected: Any) -> Any:
    """Return a value that equals whatever contains `expected`.

    A dictionary is contained in one with more keys, at any depth. Lists have the same length, and
    their items are compared one by one. Everything else has to be equal.
    """
    return Containing(expected)


class Containing:
    """The value that `containing` returns."""

    def __init__(self, expected: Any) -> None:
        self.expected = expected

    def __eq__(self, other: object) -> bool:
        return not any(differences("", other, self))

    __hash__ = None  # type: ignore[assignment]  # equal to values of any hash

    def __repr__(self) -> str:
        return f"containing({self.expected!r})"


def differences(path: str, given: Any, expected: Any, *, in_part: bool = False) -> Iterator[str]:
    """Yield one line for each place where `given` is not as expected; none if it matches.

    Args:
        path: The name of the value, with which each line begins.
        given: A published value.
        expected: What it should be. JSON has no decimals, dates or UUIDs: such a value equals the
            text that was published for it.
        in_part: Whether mappings may have more keys than expected.
    """
    if isinstance(expected, Containing):
        yield from differences(path, given, expected.expected, in_part=True)
    elif isinstance(expected, Mapping) and isinstance(given, Mapping):
        unexpected = [] if in_part else [key for key in given if key not in expected]
        for key, value in expected.items():
            at = f"{path}.{key}"
            yield from differences(at, given.get(key, MISSING), value, in_part=in_part)
        yield from (f"{path}.{key}: {given[key]!r}, expected no such key" for key in unexpected)
    elif _are_lists(given, expected) and len(given) == len(expected):
        for number, pair in enumerate(zip(given, expected, strict=True)):
            yield from differences(f"{path}[{number}]", *pair, in_part=in_part)
    elif given is MISSING:
        yield f"{path}: missing, expected {expected!r}"
    elif not _equal(given, expected):
        length = f" ({len(expected)} items)" if _are_lists(given, expected) else ""
        yield f"{path}: {given!r}, expected {expected!r}{length}"


def _are_lists(*values: Any) -> bool:
    return all(isinstance(value, list | tuple) for value in values)


def _equal(given: Any, expected: Any) -> bool:
    if expected == given:
        return True
    if isinstance(expected, _JSON) or isinstance(given, Mapping | list | tuple):
        return False
    try:
        return bool(json.loads(encode_data(expected)) == given)
    except (TypeError, ValueError):
        return False
