"""Names of exchanges and routing keys, within the limits of AMQP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

from ..base import Message
from ..names import Escape, Template, escape_word, escape_words
from ..options import OptionReader
from .frames import SHORT_BYTES

T = TypeVar("T")


ESCAPES: Final[Mapping[str, Escape]] = {"exchange": escape_word, "routing_key": escape_words}


def is_fixed(template: Template | None) -> bool:
    """Return True if a name is the same for all events."""
    return template is None or template.is_constant


def name_of(template: Template | None, given: str | None, message: Message) -> str:
    """Return the name for one event: the one that it asks for, else by the template."""
    if given is not None:
        return given
    return "" if template is None else template.render(message)


def is_short(text: str) -> bool:
    """Return True if AMQP has room for a text where it counts its bytes in one."""
    return len(text) * 4 <= SHORT_BYTES or len(text.encode()) <= SHORT_BYTES


def read_name(
    read: OptionReader, option: str, name: T, *, empty: bool = False, optional: bool = False
) -> T:
    """Read a name or another short text; raises the reader's error."""
    read.text(option, name, SHORT_BYTES, empty=empty, optional=optional)
    if isinstance(name, str) and any(ord(char) < 0x20 or char == "\x7f" for char in name):
        read.refuse(option, f"must have no control characters, not {name!r}")
    return name
