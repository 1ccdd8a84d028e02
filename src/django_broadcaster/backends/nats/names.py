"""Subjects of NATS: names of tokens with dots between them, and what must not get into them.

https://docs.nats.io/nats-concepts/subjects
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import blake2b
from reprlib import repr as shortened
from string import Formatter
from typing import Final
from urllib.parse import quote

from ..text import is_utf8

LONGEST_VALUE: Final = 250
"""Bytes that one attribute may take in a subject; the server's limit is for a whole line, 4096."""

LONGEST_SUBJECT: Final = 3000
"""Bytes of a subject that leave room for the rest of the line: a reply subject and two sizes."""

_PLAIN = re.compile(r"[A-Za-z0-9-][A-Za-z0-9_-]*")
_SAFE = "/:@=+,"
_FORBIDDEN = re.compile(r"[\s\x00-\x1f\x7f*>]")


def escape(field: str, value: str) -> str:
    """Return the value of an attribute as a part of a subject that has no meaning to NATS.

    The dots of a `type` part tokens, as they part its words; all other dots, wildcards, spaces and
    whatever is not plain are percent-encoded, so different values stay different. So are `$` and a
    leading `_`, which begin the subjects of the server itself and of replies. A value that gets too
    long is cut, and ends with a digest of all of it.
    """
    tokens = value.split(".") if field == "type" else [value]
    if not all(tokens):
        tokens = [value]
    escaped = ".".join(map(_token, tokens))
    if len(escaped) <= LONGEST_VALUE:
        return escaped
    digest = blake2b(value.encode(), digest_size=16).hexdigest()
    return f"{escaped[: LONGEST_VALUE - 33]}~{digest}"


def wildcard(template: str) -> str:
    """Return the subject with wildcards that takes whatever a template may become.

    A `type` may be several tokens, so all that stands behind one is open.
    """
    tokens: list[str] = []
    for token in _marked(template).split("."):
        if "\0>" in token:
            return ".".join([*tokens, ">"])
        tokens.append("*" if "\0*" in token else token)
    return ".".join(tokens)


def template_problem(template: str) -> str | None:
    """Return what is wrong with the template's own text, if anything."""
    marked = _marked(template)
    problem = subject_problem(re.sub("\0.", "x", marked))
    if problem is None and len(marked) + LONGEST_VALUE * marked.count("\0") > LONGEST_SUBJECT:
        return f"may become longer than the {LONGEST_SUBJECT} bytes that NATS has room for"
    return problem


def subject_problem(subject: object) -> str | None:
    """Return what is wrong with a subject to publish to, if anything."""
    if not isinstance(subject, str) or not subject:
        return f"must be text and not empty, not {shortened(subject)}"
    if _FORBIDDEN.search(subject) or not all(subject.split(".")):
        return f"must be words with dots between them, without spaces and wildcards: {subject!r}"
    if len(subject.encode(errors="replace")) > LONGEST_SUBJECT:
        return f"must not be longer than {LONGEST_SUBJECT} bytes"
    if not is_utf8(subject):
        return f"must be text that UTF-8 can hold, not {shortened(subject)}"
    return None


def any_overlaps(patterns: Iterable[str], subject: str) -> bool:
    """Tell whether a subject (or some subject that it takes, if it has wildcards) is in any."""
    return any(_overlap(pattern.split("."), subject.split(".")) for pattern in patterns)


def _overlap(one: list[str], other: list[str]) -> bool:
    for mine, theirs in zip(one, other, strict=False):
        if ">" in (mine, theirs):
            return True
        if mine != theirs and "*" not in (mine, theirs):
            return False
    return len(one) == len(other)


def _token(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    encoded = quote(text, safe=_SAFE).replace(".", "%2E").replace("~", "%7E")
    return f"%5F{encoded[1:]}" if encoded.startswith("_") else encoded


def _marked(template: str) -> str:
    """Return the template with each field as a zero byte and a wildcard."""
    wildcards = {None: "", "type": "\0>"}
    return "".join(
        literal + wildcards.get(name, "\0*") for literal, name, *_ in Formatter().parse(template)
    )
