"""The retention of events with a final status: a policy without a clock or a database.

    RetentionPolicy.of(timedelta(days=7))              published 7 days
                                                       cancelled 7 days
                                                       failed    for ever
    RetentionPolicy.of({"published": 0, "failed": timedelta(days=90)})
                                                       published not at all
                                                       cancelled 1 day
                                                       failed    90 days

By default, dead letters are kept for ever, because an operator should handle them. Cancelled events
are kept as long as delivered ones, but at least a day, so that a mistake can be corrected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Self

Span = timedelta | float | None
"""A timedelta or seconds; None is for ever."""

Retention = Span | Mapping[str, Span]
"""A span for delivered events, or spans by status."""

STATUSES: Final = ("published", "failed", "cancelled")

UNDOABLE: Final = timedelta(days=1)
"""The minimum for cancelled events without a span of their own."""


def span(value: Span) -> timedelta | None:
    """Return a setting as a timedelta, or None for ever."""
    if value is None or isinstance(value, timedelta):
        return value
    return timedelta(seconds=value)


def by_status(value: Retention) -> dict[str, Span]:
    """Return a setting as spans by status; a single span is for delivered events."""
    return dict(value) if isinstance(value, Mapping) else {"published": value}


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """The time for which events are kept after their end, by status; None is for ever."""

    published: timedelta | None
    failed: timedelta | None
    cancelled: timedelta | None

    @classmethod
    def of(cls, value: Retention, default: Span = None) -> Self:
        """Return the policy of a setting. The system checks validate its values.

        Args:
            value: The setting. A single span is for delivered events.
            default: The span for delivered events, if the setting has none.
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
        """Whether delivered events are kept. Otherwise they are deleted at once."""
        return self.published != timedelta(0)

    def extended(self, by: timedelta) -> Self:
        """Return a policy that keeps delivered and cancelled events longer."""
        return replace(
            self,
            published=None if self.published is None else self.published + by,
            cancelled=None if self.cancelled is None else self.cancelled + by,
        )

    def expiries(self, now: datetime) -> dict[str, datetime]:
        """Return the time before which events are old, by status, without those kept for ever."""
        spans = {name: getattr(self, name) for name in STATUSES}
        return {name: now - each for name, each in spans.items() if each is not None}
