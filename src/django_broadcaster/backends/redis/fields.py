"""Further fields of an entry: the items of `publisher_config` that are not options of the backend.

A value is written as text: a number as Python writes it, a bool as `true` or `false`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from ..bindings import REDIS, canonical
from ..options import OptionReader
from ..text import is_utf8

OPTIONS: Final = frozenset({"stream_name", "max_len"})
"""The keys of `publisher_config` that say where an entry goes, and are not fields of it."""

DOCUMENTED: Final = frozenset({"event_id", "event_type", "source", "timestamp", "cloud_event"})
"""The fields that every reader may rely on, in either content mode."""

_OF_BINARY_MODE: Final = frozenset({"content_type", "data"})


class Further(NamedTuple):
    """Fields as they are sent: how many, packed, and the size of the largest part."""

    pairs: int
    packed: bytes
    largest: int


NONE: Final = Further(0, b"", 0)


def further(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields that an event's `publisher_config` adds, as text."""
    return {name: canonical(value) for name, value in config.items() if name not in OPTIONS}


def packed(config: Mapping[str, Any]) -> Further:
    """Return those fields as they are sent."""
    fields = further(config)
    if not fields:
        return NONE
    values = [value.encode() for value in fields.values()]
    names = _names(tuple(fields))
    pairs = zip(names, values, strict=True)
    wire = b"".join(b"%b$%d\r\n%b\r\n" % (name, len(value), value) for name, value in pairs)
    return Further(len(values), wire, max(map(len, (*names, *values))))


@lru_cache(maxsize=1024)
def _names(names: tuple[str, ...]) -> list[bytes]:
    raw = (name.encode() for name in names)
    return [b"$%d\r\n%b\r\n" % (len(name), name) for name in raw]


def read_body_field(read: OptionReader, name: str | None) -> str | None:
    """Read the name of the field that has the body; raises the reader's error."""
    read.text("body_field", name, optional=True)
    others = DOCUMENTED - {"cloud_event"} | {"content_type"}
    if name is not None and (name in others or name.startswith(REDIS.prefix)):
        read.refuse("body_field", f"must differ from the other fields, not {name!r}")
    return name


def check(
    read: OptionReader, config: Mapping[Any, Any], *, binary: bool, body_field: str | None
) -> None:
    """Check the further fields of an entry; raises the reader's error.

    Args:
        binary: Whether the content mode is "binary".
        body_field: The name of the body's field, if it has one of its own.
    """
    for name, value in config.items():
        if name in OPTIONS:
            continue
        if not isinstance(name, str) or not is_utf8(name):
            read.refuse(name, "must be text to be the name of a field")
        if name in DOCUMENTED or name == body_field or (binary and _belongs_to_binary_mode(name)):
            read.refuse(name, "is a field of every entry; choose another name")
        fits = isinstance(value, int | float) or (isinstance(value, str) and is_utf8(value))
        read.require(name, value, fits, "text, a number or a bool")


def _belongs_to_binary_mode(name: str) -> bool:
    return name in _OF_BINARY_MODE or name.startswith(REDIS.prefix)
