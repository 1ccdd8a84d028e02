"""What the checks of several settings have in common: their messages and their questions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from difflib import get_close_matches
from math import isfinite
from reprlib import repr as shortened
from typing import Any, TypeGuard

from django.core.checks import CheckMessage, Error, Info, Warning

from ..conf import conf

TAG = "django_broadcaster"

LONGEST = timedelta(days=36500)
"""The longest span of time in a setting: further back than that, dates come to their end."""

Messages = list[CheckMessage]


def error(number: str, message: str, hint: str) -> Error:
    """Return an error with the project's id of that number."""
    return Error(message, hint=hint, id=f"{TAG}.{number}")


def warning(number: str, message: str, hint: str) -> Warning:
    """Return a warning with the project's id of that number."""
    return Warning(message, hint=hint, id=f"{TAG}.{number}")


def info(number: str, message: str, hint: str) -> Info:
    """Return a remark with the project's id of that number."""
    return Info(message, hint=hint, id=f"{TAG}.{number}")


def entries() -> dict[str, Mapping[str, Any]]:
    """Return the entries of OUTBOX_PUBLISHERS that have the right shape."""
    publishers: Any = conf.PUBLISHERS
    items = publishers.items() if isinstance(publishers, Mapping) else ()
    return {a: entry for a, entry in items if isinstance(a, str) and isinstance(entry, Mapping)}


def unknown_keys(
    number: str, where: str, found: Mapping[Any, Any], known: Iterable[str]
) -> Iterator[CheckMessage]:
    """Yield an error for each key that is not known, with the one that was probably meant."""
    names = sorted(known)
    for key in found:
        if key not in names:
            listed = ", ".join(map(repr, names))
            fix = f"In {where}, {fix_of_key(key, names)}. Known keys: {listed}."
            yield error(number, f"{where} has the unknown key {shortened(key)}.", fix)


def fix_of_key(key: object, known: Iterable[str]) -> str:
    """Return what to do about an unknown key."""
    near = nearest(str(key), known)
    return f"rename {shortened(key)} to {near!r}" if near else f"remove {shortened(key)}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the name that was probably meant, in whatever case."""
    folded = {name.casefold(): name for name in known}
    found = get_close_matches(word.casefold(), folded, n=1)
    return folded[found[0]] if found else None


def kind(value: object) -> str:
    """Return the name of a value's type, for messages that must not show the value."""
    return type(value).__name__


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a finite number; True and False are none."""
    if isinstance(value, float):
        return isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def is_whole(value: object, least: int, most: float = float("inf")) -> TypeGuard[int]:
    """Whether a value is an integer within bounds that belong to it."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def seconds(value: object) -> float:
    """Return a span of time in seconds, or -1 for what is none."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value if is_number(value) else -1
