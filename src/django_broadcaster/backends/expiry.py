"""How long a broker may keep an event that has an `expirytime`.

https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/expirytime.md
The relay sends no event whose time has passed. Where a broker can give up a message by itself, it
is told how long the event is of use from now on, by the relay's clock.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from django_broadcaster.events.timestamps import in_utc

from .base import Message

EXPIRYTIME: Final = "expirytime"


def seconds_left(message: Message) -> float | None:
    """Return the seconds until the event's `expirytime`, at least 0; None for one without it."""
    if EXPIRYTIME not in message.extensions:
        return None
    try:
        moment = in_utc(message.extensions[EXPIRYTIME])
    except (TypeError, ValueError, OverflowError):  # only a row that was tampered with
        return None
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
