"""The messages of system checks: their ids, unknown keys, and the setting that was meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from difflib import get_close_matches
from reprlib import repr as shortened
from typing import Any

from django.core.checks import CheckMessage, Error, Info, Warning

from django_broadcaster.conf import conf

TAG = "django_broadcaster"

Messages = list[CheckMessage]


def error(number: str, message: str, hint: str) -> Error:
    """Return an error with the id `django_broadcaster.{number}`."""
    return Error(message, hint=hint, id=f"{TAG}.{number}")


def warning(number: str, message: str, hint: str) -> Warning:
    """Return a warning with the id `django_broadcaster.{number}`."""
    return Warning(message, hint=hint, id=f"{TAG}.{number}")


def info(number: str, message: str, hint: str) -> Info:
    """Return a remark with the id `django_broadcaster.{number}`."""
    return Info(message, hint=hint, id=f"{TAG}.{number}")


def entries() -> dict[str, Mapping[str, Any]]:
    """Return the entries of OUTBOX_PUBLISHERS that have the right shape."""
    publishers: Any = conf.PUBLISHERS
    items = publishers.items() if isinstance(publishers, Mapping) else ()
    return {a: entry for a, entry in items if isinstance(a, str) and isinstance(entry, Mapping)}


def unknown_keys(
    number: str, where: str, found: Mapping[Any, Any], known: Iterable[str]
) -> Iterator[CheckMessage]:
    """Yield an error for each unknown key, with the most similar known key."""
    names = sorted(known)
    for key in found:
        if key not in names:
            listed = ", ".join(map(repr, names))
            fix = f"In {where}, {fix_of_key(key, names)}. Known keys: {listed}."
            yield error(number, f"{where} has the unknown key {shortened(key)}.", fix)


def fix_of_key(key: object, known: Iterable[str]) -> str:
    """Return the fix for an unknown key."""
    near = nearest(str(key), known)
    return f"rename {shortened(key)} to {near!r}" if near else f"remove {shortened(key)}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the most similar known name, ignoring case, or None."""
    folded = {name.casefold(): name for name in known}
    found = get_close_matches(word.casefold(), folded, n=1)
    return folded[found[0]] if found else None


def kind(value: object) -> str:
    """Return the name of a value's type, for messages that must not show the value."""
    return type(value).__name__


def literal(value: object) -> str:
    """Return the code that makes a value of a setting."""
    if isinstance(value, timedelta):
        return f"timedelta(days={value / timedelta(days=1):g})"
    return repr(value)
