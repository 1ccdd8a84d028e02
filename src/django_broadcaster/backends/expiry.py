"""How long a broker may keep an event that has an `expirytime`.

https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/expirytime.md
The relay sends no event whose time has passed. If a broker can drop messages by itself,
the message carries the time that the event has left, by the relay's clock.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from django_broadcaster.events.timestamps import in_utc

from .base import Message

EXPIRYTIME: Final = "expirytime"

AMQP_LONGEST: Final = (2**32 - 1) // 1000
"""Seconds: the longest time to live that every version of RabbitMQ takes, 49 days."""


def seconds_left(message: Message, longest: float) -> float | None:
    """Return the seconds until the event's `expirytime`, at least 0.

    None for an event without one, and for more than `longest`, which the protocol has no room for.
    """
    if EXPIRYTIME not in message.extensions:
        return None
    try:
        moment = in_utc(message.extensions[EXPIRYTIME])
    except (TypeError, ValueError, OverflowError):  # only a row that was tampered with
        return None
    seconds = max(0.0, (moment - datetime.now(UTC)).total_seconds())
    return seconds if seconds <= longest else None
