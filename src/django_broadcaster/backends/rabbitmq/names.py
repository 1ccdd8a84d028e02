"""Names of exchanges and routing keys: made from the event, escaped, and within AMQP's limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from reprlib import repr as shortened
from typing import Final
from urllib.parse import quote

from ..base import Message
from ..templates import Template
from ..text import is_utf8
from .frames import SHORT_BYTES


def escape_exchange(_: str, value: str) -> str:
    """Return a field of an exchange's name: letters, digits, `-` and `_` stay, all else is encoded.

    A dot is encoded, too, so that no event names one of the server's own exchanges (`amq.`).
    """
    return quote(value, safe="").replace(".", "%2E").replace("~", "%7E")


@lru_cache(maxsize=1024)  # most events are of a few types
def escape_routing_key(field: str, value: str) -> str:
    """Return a field of a routing key, in which a dot divides words.

    The words of a `type` stay words. Any other field is one word, whatever is in it. What is no
    letter or digit of ASCII nor one of `-_~` is percent-encoded, so no `*` or `#` gets through.
    """
    encoded = quote(value, safe="")
    return encoded if field == "type" else encoded.replace(".", "%2E")


ESCAPES: Final[Mapping[str, Callable[[str, str], str]]] = {
    "exchange": escape_exchange,
    "routing_key": escape_routing_key,
}


def is_fixed(template: Template | None) -> bool:
    """Tell whether a name is the same for all events."""
    return template is None or template.is_constant


def name_of(template: Template | None, given: str | None, message: Message) -> str:
    """Return the name for one event: the one that it asks for, else by the template."""
    if given is not None:
        return given
    return "" if template is None else template.render(message)


def is_short(text: str) -> bool:
    """Tell whether AMQP has room for a text where it counts its bytes in one."""
    return len(text) * 4 <= SHORT_BYTES or len(text.encode()) <= SHORT_BYTES


def name_problem(name: object) -> str:
    """Return what is wrong with a name, or nothing; it may be empty."""
    if not isinstance(name, str) or not is_utf8(name):
        return f"must be text, not {shortened(name)}"
    if not is_short(name) or any(ord(char) < 0x20 or char == "\x7f" for char in name):
        return f"must have at most {SHORT_BYTES} bytes and no control characters"
    return ""
