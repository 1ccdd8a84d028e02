"""Subjects of NATS: names of tokens with dots between them, and what must not get into them.

https://docs.nats.io/nats-concepts/subjects
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from ..names import LONGEST_VALUE, Template
from ..options import OptionReader

LONGEST_SUBJECT: Final = 3000
"""Bytes of a subject that leave room for the rest of the line: a reply subject and two sizes."""

_FORBIDDEN = re.compile(r"[\s\x00-\x1f\x7f*>]")


def wildcard(template: Template) -> str:
    """Return the subject with wildcards that takes whatever a template may become.

    A `type` may be several tokens, so all that follows one is open.
    """
    tokens: list[str] = []
    for token in template.filled(lambda field: "\0>" if field == "type" else "\0*").split("."):
        if "\0>" in token:
            return ".".join([*tokens, ">"])
        tokens.append("*" if "\0*" in token else token)
    return ".".join(tokens)


def length_problem(template: Template) -> str | None:
    """Return what is wrong with the length of what a template may become, if anything."""
    longest = len(template.filled(lambda _: "")) + LONGEST_VALUE * len(template.fields)
    if template.fields and longest > LONGEST_SUBJECT:
        return f"may exceed the limit of {LONGEST_SUBJECT} bytes for subjects of NATS"
    return None


def subject_problem(subject: str) -> str | None:
    """Return what is wrong with a subject to publish to, if anything."""
    if _FORBIDDEN.search(subject) or not all(subject.split(".")):
        return f"must be words separated by dots, without spaces and wildcards, not {subject!r}"
    if len(subject.encode()) > LONGEST_SUBJECT:
        return f"must not be longer than {LONGEST_SUBJECT} bytes"
    return None


def any_overlaps(patterns: Iterable[str], subject: str) -> bool:
    """Return True if a subject (or some subject that it takes, if it has wildcards) is in any."""
    return any(_overlap(pattern.split("."), subject.split(".")) for pattern in patterns)


def _overlap(one: list[str], other: list[str]) -> bool:
    for mine, theirs in zip(one, other, strict=False):
        if ">" in (mine, theirs):
            return True
        if mine != theirs and "*" not in (mine, theirs):
            return False
    return len(one) == len(other)


def read_name(read: OptionReader, option: str, name: Any) -> str:
    """Read the name of a stream or of a consumer."""
    holds = isinstance(name, str) and name.isprintable() and not set(name or " ") & set(" .*>/\\")
    rule = "a name without spaces, dots, slashes and wildcards"
    read.require(option, name, holds, rule)
    return str(name)
