"""Properties of a message that an event asks for in its `publisher_config`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil
from reprlib import repr as shortened
from typing import Any, Final

from ..base import Message
from ..expiry import AMQP_LONGEST, seconds_left
from ..text import is_utf8
from .names import is_short, name_problem

PROPERTIES: Final = frozenset({"priority", "expiration", "correlation_id", "headers"})

# The server routes by these two: they would lead past `exchange` and `routing_key`.
_ROUTING: Final = frozenset({"cc", "bcc"})
_TRACE: Final = frozenset({"traceparent", "tracestate"})
_OURS: Final = ("ce-", "cloudevents_", "cloudevents:")


def property_problem(key: str, value: object) -> str:
    """Return what is wrong with the value of one of `PROPERTIES`, or nothing."""
    if key == "priority":
        known = type(value) is int and 0 <= value < 256
        return "" if known else f"must be a whole number from 0 to 255, not {shortened(value)}"
    if key == "expiration":
        known = isinstance(value, int | float) and not isinstance(value, bool)
        if known and 0 <= value <= AMQP_LONGEST:  # type: ignore[operator]
            return ""
        return f"must be a number of seconds from 0 to {AMQP_LONGEST}, not {shortened(value)}"
    if key == "correlation_id":
        return name_problem(value)
    if not isinstance(value, Mapping):
        return f"must be a dictionary, not {shortened(value)}"
    return next(_header_problems(value), "")


def _header_problems(headers: Mapping[Any, Any]) -> Iterator[str]:
    for name, value in headers.items():
        if not isinstance(name, str) or not name or not is_short(name):
            yield f"has the name {shortened(name)}; a name is text of 1 to 255 bytes"
        elif name.lower() in _ROUTING | _TRACE or name.lower().startswith(_OURS):
            yield f"has the name {name!r}, which the backend or the server gives a meaning"
        elif not isinstance(value, str | int):
            problem = f"has {shortened(value)} for {name!r}"
            yield f"{problem}; a value is text, a whole number, True or False"
        elif isinstance(value, str) and not is_utf8(value):
            yield f"has text for {name!r} that is not UTF-8"
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            yield f"has {shortened(value)} for {name!r}; a whole number has 64 bits"


def expiration_of(message: Message) -> str:
    """Return the time to live in milliseconds, as RabbitMQ's text; empty for none.

    The earlier counts: the event's `expirytime`, or the `expiration` of its `publisher_config`.
    """
    limits = (seconds_left(message, AMQP_LONGEST), message.config.get("expiration"))
    seconds = min((limit for limit in limits if limit is not None), default=None)
    return "" if seconds is None else str(ceil(seconds * 1000))
