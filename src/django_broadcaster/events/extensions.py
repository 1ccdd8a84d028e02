"""Extension attributes: their valid names and values."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Container, Mapping
from datetime import datetime
from reprlib import repr as shortened
from types import MappingProxyType
from typing import Final
from uuid import UUID

from django_broadcaster.exceptions import InvalidEvent

from .attributes import JSON_NAMES, character_problem
from .lazy import resolved
from .timestamps import in_utc, rfc3339

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
"""The extensions that connect an event with a trace.

https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/distributed-tracing.md
"""

_NAME: Final = re.compile(r"[a-z0-9]+")
_NONE: Final[Mapping[str, bool | int | str]] = MappingProxyType({})
_RESERVED: Final = {"specversion", "data", "data_base64", *JSON_NAMES.values()}


_FREQUENT: Final = frozenset({"partitionkey", TRACEPARENT, TRACESTATE, "expirytime"})
"""Valid names that need no check."""


def check_extensions(
    given: object, longest: int | None = 20, known: Container[object] = ()
) -> Mapping[str, bool | int | str]:
    """Return extensions as read-only JSON values, without unset ones.

    `longest` is the limit for the length of a name, None for no limit. Names in `known` are not
    limited.
    Raises InvalidEvent("extensions").
    """
    if given is None:
        return _NONE
    if type(given) is not dict and not isinstance(given, Mapping):  # a dict, nearly always
        raise InvalidEvent("extensions", f"must be a mapping, not {given.__class__.__name__}")
    checked = {}
    for name, value in given.items():
        if value is None:
            continue  # unset, by the JSON format
        if name not in _FREQUENT:
            _check_name(name, None if name in known else longest)
        try:
            checked[name] = _json_value(name, value if type(value) is str else resolved(value))
        except (TypeError, ValueError, OverflowError) as exc:
            raise InvalidEvent("extensions", f"the value of {name!r} {exc}") from exc
    return MappingProxyType(checked)


def _check_name(name: object, longest: int | None) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        problem = "must be lower-case ASCII letters and digits"
    elif longest and len(name) > longest:
        problem = f"must have {longest} characters at most"
    elif name in _RESERVED:
        problem = "belongs to CloudEvents itself; pass the argument of that meaning"
    else:
        return
    raise InvalidEvent("extensions", f"the name {shortened(name)} {problem}")


def _json_value(name: str, value: object) -> bool | int | str:
    if name == "partitionkey" and (not isinstance(value, str) or not value):
        raise TypeError("must be a non-empty string; use str(...)")
    if name == "expirytime":
        return rfc3339(in_utc(value))
    if type(value) is str:  # the usual case
        return _text(value)
    if isinstance(value, int):
        if not -(2**31) <= value < 2**31:
            raise ValueError("is over the 32 bits of an Integer; send it as text")
        return value if isinstance(value, bool) else int(value)
    if isinstance(value, datetime):
        return rfc3339(in_utc(value))
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, UUID):
        return str(value)
    if not isinstance(value, str):
        raise TypeError(
            f"must be bool, int, str, bytes, UUID or datetime, not {value.__class__.__name__}"
        )
    return _text(value)


def _text(value: str) -> str:
    if problem := character_problem(value):
        raise ValueError(problem)
    return str.__str__(value)
