"""Names of streams: made from the event, and escaped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import blake2b
from reprlib import repr as shortened
from typing import Any, Final
from urllib.parse import quote

from ..text import is_utf8

LONGEST_VALUE: Final = 250
"""Bytes that one attribute may take in the name of a stream."""

_PLAIN = re.compile(r"[A-Za-z0-9-][A-Za-z0-9_-]*")


@lru_cache(maxsize=4096)
def escape(field: str, value: str) -> str:
    """Return the value of an attribute as a part of a stream's name.

    Letters, digits, `-` and `_` stay, and so do the dots in a `type`; all else is percent-encoded:
    no value can add a separator, or the braces that choose a slot of a cluster. A leading `_` is
    encoded too, as it stands for a value that is missing. So different values stay different. One
    that gets too long is cut, and ends with a digest of all of it.
    """
    tokens = value.split(".") if field == "type" else [value]
    if not all(tokens):
        tokens = [value]
    escaped = ".".join(map(_token, tokens))
    if len(escaped) <= LONGEST_VALUE:
        return escaped
    digest = blake2b(value.encode(), digest_size=16).hexdigest()
    return f"{escaped[: LONGEST_VALUE - 33]}~{digest}"


def _token(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    encoded = quote(text, safe="").replace(".", "%2E").replace("~", "%7E")
    return f"%5F{encoded[1:]}" if encoded.startswith("_") else encoded


def stream_problems(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the key and what is wrong with it, of `stream_name` and `max_len` where given."""
    name = options.get("stream_name", "events")
    if not isinstance(name, str) or not name or not is_utf8(name):
        yield "stream_name", f"must be text and not empty, not {shortened(name)}"
    length = options.get("max_len")
    if length is not None and (type(length) is not int or not 0 < length < 2**63):
        yield "max_len", f"must be a whole number from 1 on, or None, not {shortened(length)}"
