"""Events for one destination of many that is away."""

from __future__ import annotations

from django.utils import timezone

from django_broadcaster.exceptions import TransientError
from django_broadcaster.relay import postponed
from tests.support.events import row

NAMES = [f"-{number}" for number in range(postponed.PROBES + 2)]
LAST = NAMES[-1]
"""More events than try a destination by themselves, and the last of them."""


def away() -> TransientError:
    """Return the outcome of an event that was not sent, because its destination is away."""
    error = TransientError("its endpoint is away", retry_after=60, spends_retry=False)
    error.waits_for = "x"
    error.sent = False
    return error


def is_postponed(name: str, database: str) -> bool:
    """Return True if an event is due in more than a minute."""
    return (row(name, database).scheduled_at - timezone.now()).total_seconds() > 60
