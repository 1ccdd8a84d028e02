"""How long events are kept that nobody has to deliver any more: pure, no clock and no database.

    RetentionPolicy.of(timedelta(days=7))              published 7 days
                                                       cancelled 7 days
                                                       failed    for ever
    RetentionPolicy.of({"published": 0, "failed": timedelta(days=90)})
                                                       published not at all
                                                       cancelled 1 day
                                                       failed    90 days

A dead letter is work for somebody, so it stays unless a time is named. A cancelled event is settled
like a published one, but for a day at least, so that a mistake can be taken back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Self

Span = timedelta | float | None
"""A timedelta or seconds; None is for ever."""

Retention = Span | Mapping[str, Span]
"""A span for published events, or spans by status."""

STATUSES: Final = ("published", "failed", "cancelled")

UNDOABLE: Final = timedelta(days=1)
"""How long a cancelled event stays at least, where no time is named for it."""


def span(value: Span) -> timedelta | None:
    """Return a setting as a timedelta, or None for ever."""
    if value is None or isinstance(value, timedelta):
        return value
    return timedelta(seconds=value)


def by_status(value: Retention) -> dict[str, Span]:
    """Return a setting as spans by status; a single span is about published events."""
    return dict(value) if isinstance(value, Mapping) else {"published": value}


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How long an event stays after it was published, given up or cancelled; None is for ever."""

    published: timedelta | None
    failed: timedelta | None
    cancelled: timedelta | None

    @classmethod
    def of(cls, value: Retention, default: Span = None) -> Self:
        """Return the policy that a setting says; `default` is for published events it leaves out.

        A single value is about published events. Values are judged by the system checks.
        """
        spans = by_status(value)
        published = span(spans.get("published", default))
        as_published = None if published is None else max(published, UNDOABLE)
        return cls(
            published=published,
            failed=span(spans.get("failed")),
            cancelled=span(spans["cancelled"]) if "cancelled" in spans else as_published,
        )

    @property
    def keeps_published(self) -> bool:
        """Whether a delivered event is marked; otherwise it is deleted as it is settled."""
        return self.published != timedelta(0)

    def extended(self, by: timedelta) -> Self:
        """Return a policy that keeps published and cancelled events longer."""
        return replace(
            self,
            published=None if self.published is None else self.published + by,
            cancelled=None if self.cancelled is None else self.cancelled + by,
        )

    def expiries(self, now: datetime) -> dict[str, datetime]:
        """Return for each status the moment before which its events are old; some may lack one."""
        spans = {name: getattr(self, name) for name in STATUSES}
        return {name: now - kept for name, kept in spans.items() if kept is not None}
