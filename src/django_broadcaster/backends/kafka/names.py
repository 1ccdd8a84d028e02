"""Kafka's rules for the name of a topic."""

from __future__ import annotations

import re
from typing import Final

MAX_TOPIC: Final = 249
_TOPIC_TEXT: Final = re.compile(r"[a-zA-Z0-9._-]*")


def topic_problem(name: object) -> str | None:
    """Return what is wrong with a topic's name, or None."""
    if not isinstance(name, str) or not name:
        return "must be a non-empty string"
    if not _TOPIC_TEXT.fullmatch(name) or name in (".", ".."):
        return f"may have letters, digits, '.', '_' and '-' only, not {name!r}"
    if len(name) > MAX_TOPIC:
        return f"has {len(name)} characters, and Kafka takes {MAX_TOPIC}: {name[:40]}..."
    return None
