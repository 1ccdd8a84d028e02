"""Names that are made from events: topics, subjects, routing keys, streams, tasks.

A backend fills in a template. Each value of an event is escaped first, so that no event chooses a
destination that the template does not leave to it. Different values stay different.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from string import Formatter
from typing import Final, Protocol
from urllib.parse import quote

FIELDS: Final = ("type", "source", "subject", "key")
EMPTY: Final = "_"
"""Replaces an attribute that an event lacks: protocols refuse empty parts of names."""

LONGEST_VALUE: Final = 250
"""Bytes that one value may take in the name of a stream or a subject."""

Escape = Callable[[str, str], str]
"""Returns the value of a field as a part of a name, given the field and the value."""


class HasFields(Protocol):
    """The attributes that a name is made from: a `Message` has them."""

    @property
    def type(self) -> str: ...

    source: str
    subject: str
    partition_key: str


class Template:
    """Text with `{type}`, `{source}`, `{subject}` and `{key}`, filled in for each message.

    The template's own text is the project's, and goes in as it is.

    Args:
        text: The template.
        escape: Returns a value in which nothing is left that has a meaning in the protocol.

    Raises:
        ValueError: A field is unknown, or has a format or a conversion.
    """

    def __init__(self, text: str, escape: Escape) -> None:
        self.text = text
        self._escape = escape
        self._parts = _parse(text)
        self.fields = [name for _, name in self._parts if name is not None]
        self.is_constant = not self.fields
        self._constant = "".join(literal for literal, _ in self._parts)

    @property
    def constant(self) -> str | None:
        """The name that is the same for all messages; None if it depends on them."""
        return self._constant if self.is_constant else None

    def render(self, message: HasFields) -> str:
        """Return the name for one message."""
        if self.is_constant:
            return self._constant
        return "".join(literal + self._field(name, message) for literal, name in self._parts)

    def filled(self, fill: Callable[[str], str]) -> str:
        """Return the name with `fill(field)` in the place of each field."""
        return "".join(literal + (fill(name) if name else "") for literal, name in self._parts)

    def _field(self, name: str | None, message: HasFields) -> str:
        if name is None:
            return ""
        value = message.partition_key if name == "key" else getattr(message, name)
        return self._escape(name, value) if value else EMPTY


def _parse(text: object) -> list[tuple[str, str | None]]:
    if not isinstance(text, str) or not text:
        raise ValueError(f"must be a non-empty string, not {text!r}")
    parts = []
    for literal, name, spec, conversion in Formatter().parse(text):
        if name is not None and (name not in FIELDS or spec or conversion):
            known = ", ".join(f"{{{field}}}" for field in FIELDS)
            raise ValueError(f"has the unknown field {{{name}}} in {text!r}; known fields: {known}")
        parts.append((literal, name))
    return parts


# --- Escaping ------------------------------------------------------------------------------------


def escape_word(_: str, value: str) -> str:
    """Return a value as a part of an exchange's name: one word.

    Letters and digits of ASCII, `-` and `_` stay; all else is percent-encoded. A dot is encoded,
    too, so that no event names one of the server's own exchanges (`amq.`).
    """
    return _one_word(value).replace("~", "%7E")


@lru_cache(maxsize=4096)  # most events are of a few types
def escape_words(field: str, value: str) -> str:
    """Return a value as a part of a routing key or a Celery task's name: words with dots between.

    The words of a `type` stay words. Any other field is one word. Letters and digits of ASCII and
    `-_~` stay; all else is percent-encoded, so no `*` or `#` gets through.
    """
    return quote(value, safe="") if field == "type" else _one_word(value)


def escape_level(_: str, value: str) -> str:
    """Return a value as a part of an MQTT topic: one level.

    Letters and digits of ASCII and `-._~` stay; all else is percent-encoded. So `/` begins no
    level, `+` and `#` are not wildcards, and `$` does not lead to the server's own topics. The
    value `_` is encoded, too, because it stands for a value that is missing.
    """
    return "%5F" if value == EMPTY else quote(value, safe="")


@lru_cache(maxsize=4096)
def escape_stream(field: str, value: str) -> str:
    """Return a value as a part of the name of a Redis stream.

    Letters, digits, `-` and `_` stay, and so do the dots in a `type`. All else is percent-encoded:
    no value can add a separator, or the braces that choose a slot of a cluster. A leading `_` is
    encoded, too, because it stands for a value that is missing. A name that gets too long is cut,
    and ends with a digest of all of it.
    """
    return _tokens(field, value, safe="")


@lru_cache(maxsize=4096)
def escape_subject(field: str, value: str) -> str:
    """Return a value as a part of a NATS subject.

    The dots of a `type` divide tokens, as they divide its words. All other dots, wildcards, spaces
    and whatever is not plain are percent-encoded. So are `$` and a leading `_`, which begin the
    subjects of the server itself and of replies. A value that gets too long is cut, and ends with
    a digest of all of it.
    """
    return _tokens(field, value, safe="/:@=+,")


@lru_cache(maxsize=4096)
def escape_topic(field: str, value: str) -> str:
    """Return a value as a part of a Kafka topic's name: `_2F` stands for `/`.

    A dot stays in the `type`, where it divides words. Elsewhere it is escaped, so that no value
    can pass for two parts of the name.
    """
    escaped = _TO_ESCAPE.sub(_hex, value)
    return escaped if field == "type" else escaped.replace(".", "_2E")


def percent_encoded(text: str) -> str:
    """Return the text of a header or an id in printable ASCII, all else as percent-encoded UTF-8.

    https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
    section 3.1.3.2. A line break cannot get through, so a value cannot begin a header of its own.
    """
    return text if _ALL_PRINTABLE(text) else quote(text, safe=_PRINTABLE)


# What the HTTP binding leaves as it is: printable ASCII but space, " and %.
_PRINTABLE: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_ALL_PRINTABLE = re.compile(r"[!#$&-~]*").fullmatch
_PLAIN_TOKEN = re.compile(r"[A-Za-z0-9-][A-Za-z0-9_-]*").fullmatch
# A lone "_" stays as it is, unless what follows it could be read as an escape.
_TO_ESCAPE: Final = re.compile(r"[^a-zA-Z0-9._-]|_(?=[0-9A-F]{2}|[0-9A-F]?\Z)")


def _one_word(value: str) -> str:
    return quote(value, safe="").replace(".", "%2E")


def _tokens(field: str, value: str, safe: str) -> str:
    tokens = value.split(".") if field == "type" else [value]
    if not all(tokens):
        tokens = [value]
    escaped = ".".join(_token(token, safe) for token in tokens)
    if len(escaped) <= LONGEST_VALUE:
        return escaped
    digest = blake2b(value.encode(), digest_size=16).hexdigest()
    return f"{escaped[: LONGEST_VALUE - 33]}~{digest}"


def _token(text: str, safe: str) -> str:
    if _PLAIN_TOKEN(text):
        return text
    encoded = quote(text, safe=safe).replace(".", "%2E").replace("~", "%7E")
    return f"%5F{encoded[1:]}" if encoded.startswith("_") else encoded


def _hex(match: re.Match[str]) -> str:
    return "".join(f"_{byte:02X}" for byte in match[0].encode(errors="surrogatepass"))
