"""Names of exchanges and routing keys, within the limits of AMQP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..base import Message
from ..names import Escape, Template, escape_word, escape_words
from .frames import SHORT_BYTES

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
