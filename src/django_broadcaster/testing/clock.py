"""A clock that a test moves, so that it need not wait for delays and retries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from unittest.mock import patch

from django.utils import timezone

from django_broadcaster.models.managers import aware
from django_broadcaster.store import django_clock


class OutboxClock:
    """Django's clock (`django.utils.timezone.now`) and the relay's, which a test moves."""

    def __init__(self) -> None:
        self._now = timezone.now
        self._ahead = timedelta()

    def now(self) -> datetime:
        """Return the time by this clock, as `django.utils.timezone.now` does."""
        return self._now() + self._ahead

    def advance(
        self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> None:
        """Move the clock ahead.

        Raises:
            ValueError: The time is negative.
        """
        step = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        if step < timedelta():
            raise ValueError(f"the time to advance must be positive, not {step.total_seconds()} s")
        self._ahead += step

    def move_to(self, moment: datetime) -> None:
        """Move the clock to a time, such as the `scheduled_at` of an event; it goes on from there.

        A naive datetime is in Django's TIME_ZONE.
        """
        self._ahead = aware(moment) - aware(self._now())


@contextmanager
def outbox_clock() -> Iterator[OutboxClock]:
    """Let the test move time in the block: scheduled events and retries become due.

    Publish calls, `drain` and the commands use this clock, and so does all code that calls
    `timezone.now()` of `django.utils`. Code that calls `datetime.now()` or `time.time()` does not,
    nor does a reference to the function itself, such as a field's `default=timezone.now`.
    """
    clock = OutboxClock()
    with patch.object(timezone, "now", clock.now), django_clock():
        yield clock
