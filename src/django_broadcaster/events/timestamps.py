"""CloudEvents' type Timestamp: RFC 3339 text and aware datetimes, in UTC with microseconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from reprlib import repr as shortened
from typing import Final

from django_broadcaster.exceptions import InvalidEvent

from .lazy import resolved

_TIMESTAMP: Final = re.compile(  # RFC 3339 section 5.6
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-9]{2}(?:\.[0-9]+)?"
    r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)


def check_time(value: object) -> datetime | None:
    """Return `in_utc(value)`, or None for None; raises InvalidEvent("time")."""
    try:
        return None if value is None else in_utc(value)
    except (TypeError, ValueError, OverflowError) as exc:
        raise InvalidEvent("time", str(exc)) from exc


def in_utc(value: object) -> datetime:
    """Return an aware datetime or RFC 3339 text in UTC; further digits are dropped.

    Raises TypeError, ValueError or OverflowError, with a message that begins with a verb.
    """
    value = value if type(value) is str else resolved(value)
    if isinstance(value, str) and _TIMESTAMP.fullmatch(value):
        value = datetime.fromisoformat(value.upper())
    if not isinstance(value, datetime):
        given = shortened(value) if isinstance(value, str) else value.__class__.__name__
        raise TypeError(f"must be a datetime or RFC 3339 text with an offset, not {given}")
    if value.tzinfo is UTC:
        return value
    if value.utcoffset() is None:
        raise ValueError("is naive; make it aware, with django.utils.timezone.make_aware()")
    return value.astimezone(UTC)


def rfc3339(value: datetime) -> str:
    """Return a datetime in UTC as text.

    Also orjson's `default`, for subclasses of datetime such as freezegun's.
    """
    if not isinstance(value, datetime):
        raise TypeError(value.__class__.__name__)
    return value.isoformat().removesuffix("+00:00") + "Z"
