"""Names of tasks and queues: made from the event and escaped, and what is wrong with one."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

PRIORITIES: Final = range(256)
"""What AMQP can carry; on Redis Celery knows 0 to 9."""


def escape(field: str, value: str) -> str:
    """Return a field of a task's name, in which a dot divides words.

    The words of a `type` stay words. Any other field is one word. What is no letter or digit of
    ASCII nor one of `-_~` is percent-encoded.
    """
    encoded = quote(value, safe="")
    return encoded if field == "type" else encoded.replace(".", "%2E")


def name_problem(name: object) -> str:
    """Return what is wrong with a name, or nothing."""
    if not isinstance(name, str) or not name or not name.isprintable():
        return f"must be text without control characters, and not empty, not {name!r}"
    if len(name.encode()) > 255:
        return "must have at most 255 bytes"
    return ""


def priority_problem(value: object) -> str:
    if type(value) is not int or value not in PRIORITIES:
        return f"must be a whole number from 0 to {PRIORITIES[-1]}, not {value!r}"
    return ""
