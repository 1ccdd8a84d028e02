"""Names that are made from the event: topics, subjects, routing keys, streams."""

from __future__ import annotations

from collections.abc import Callable
from string import Formatter
from typing import Final

from .base import Message

FIELDS: Final = ("type", "source", "subject", "key")
EMPTY: Final = "_"
"""What stands for an attribute that an event has not: protocols refuse empty parts of names."""


class Template:
    """Text with `{type}`, `{source}`, `{subject}` and `{key}`, filled in for each message.

    `escape` is given the name of a field and its value, and returns the value in which nothing
    is left that has a meaning in the protocol, so that no event chooses a place that the template
    does not leave to it. The template's own text is the project's, and goes in as it is.

    Raises ValueError for a field that there is not, a format or a conversion.
    """

    def __init__(self, text: str, escape: Callable[[str, str], str]) -> None:
        self.text = text
        self._escape = escape
        self._parts = _parse(text)
        self.is_constant = all(name is None for _, name in self._parts)
        self._constant = "".join(literal for literal, _ in self._parts)

    @property
    def constant(self) -> str | None:
        """The name that is the same for all messages; None if it depends on them."""
        return self._constant if self.is_constant else None

    def render(self, message: Message) -> str:
        """Return the name for one message."""
        if self.is_constant:
            return self._constant
        return "".join(literal + self._field(name, message) for literal, name in self._parts)

    def _field(self, name: str | None, message: Message) -> str:
        if name is None:
            return ""
        value = message.partition_key if name == "key" else getattr(message, name)
        return self._escape(name, value) if value else EMPTY


def _parse(text: object) -> list[tuple[str, str | None]]:
    if not isinstance(text, str) or not text:
        raise ValueError(f"must be text and not empty, not {text!r}")
    parts = []
    for literal, name, spec, conversion in Formatter().parse(text):
        if name is not None and (name not in FIELDS or spec or conversion):
            known = ", ".join(f"{{{field}}}" for field in FIELDS)
            raise ValueError(f"does not know {{{name}}} in {text!r}; it may have {known}")
        parts.append((literal, name))
    return parts
