"""Names of topics: what one may be, and how the values of an event are escaped in it."""

from __future__ import annotations

import re
from typing import Final

MAX_TOPIC: Final = 249
_TOPIC_TEXT: Final = re.compile(r"[a-zA-Z0-9._-]*")
# A lone "_" stays as it is, unless what follows it could be read as an escape.
_ESCAPED: Final = re.compile(r"[^a-zA-Z0-9._-]|_(?=[0-9A-F]{2}|[0-9A-F]?\Z)")


def escape(field: str, value: str) -> str:
    """Return a value for a topic's name: `_2F` stands for `/`, and no two values look alike.

    A dot stays in the type, where it is part of how types are named; elsewhere it is escaped, so
    that a value cannot pass for two parts of the name.
    """
    escaped = _ESCAPED.sub(_hex, value)
    return escaped if field == "type" else escaped.replace(".", "_2E")


def _hex(match: re.Match[str]) -> str:
    return "".join(f"_{byte:02X}" for byte in match[0].encode(errors="surrogatepass"))


def topic_problem(name: object) -> str | None:
    """Return what is wrong with a topic's name, or None."""
    if not isinstance(name, str) or not name:
        return f"must be text and not empty, not {name!r}"
    if not _TOPIC_TEXT.fullmatch(name) or name in (".", ".."):
        return f"may have letters, digits, '.', '_' and '-' only, not {name!r}"
    if len(name) > MAX_TOPIC:
        return f"has {len(name)} characters, and Kafka takes {MAX_TOPIC}: {name[:40]}..."
    return None


def template_problem(template: str) -> str | None:
    """Return what is wrong with the text of a template beside its fields, or None."""
    plain = re.sub(r"\{\w+\}", "", template)
    if plain == template:
        return topic_problem(template)
    if not _TOPIC_TEXT.fullmatch(plain):
        return f"may have letters, digits, '.', '_', '-' and fields only, not {template!r}"
    return None
