"""Properties of a message that an event asks for in its `publisher_config`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil
from reprlib import repr as shortened
from typing import Any, Final

from ..base import Message
from ..expiry import AMQP_LONGEST, seconds_left
from ..options import OptionReader
from ..text import is_utf8
from .frames import SHORT_BYTES
from .names import is_short

PROPERTIES: Final = frozenset({"priority", "expiration", "correlation_id", "headers"})

# The server routes by these two: they would lead past `exchange` and `routing_key`.
_ROUTING: Final = frozenset({"cc", "bcc"})
_TRACE: Final = frozenset({"traceparent", "tracestate"})
_OURS: Final = ("ce-", "cloudevents_", "cloudevents:")


def read_properties(read: OptionReader, config: Mapping[str, Any]) -> None:
    """Read those of `PROPERTIES` that an event asks for; raises the reader's error."""
    if "priority" in config:
        read.integer("priority", config["priority"], 0, 255)
    if "expiration" in config:
        read.seconds("expiration", config["expiration"], 0, AMQP_LONGEST)
    if "correlation_id" in config:
        read.text("correlation_id", config["correlation_id"], SHORT_BYTES, empty=True, plain=True)
    if "headers" in config:
        headers = read.mapping("headers", config["headers"])
        read.check("headers", next(_header_problems(headers), None))


def _header_problems(headers: Mapping[str, Any]) -> Iterator[str]:
    for name, value in headers.items():
        if not name or not is_short(name):
            yield f"has the name {shortened(name)}; a name is text of 1 to 255 bytes"
        elif name.lower() in _ROUTING | _TRACE or name.lower().startswith(_OURS):
            yield f"has the name {name!r}, which is reserved for the backend or the server"
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
