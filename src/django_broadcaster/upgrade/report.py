"""The report of a move."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from django_broadcaster.amounts import counted

MOST_NAMED = 5


@dataclass
class Report:
    """The counts of a move, and events that an operator should check.

    Attributes:
        moved: Moved rows by their new status.
        invalid: Undelivered events that became dead letters, because they are not valid.
        default: Undelivered events without a backend.
        default_alias: The backend of these events.
        unknown: Undelivered events by alias, for aliases that are not in OUTBOX_PUBLISHERS.
        handled: Undelivered events by alias, for aliases whose handlers 0.1.1 has run.
        refused: Events that could not move, with the reason.
        left: Rows that remain in the source table.
    """

    default_alias: str = ""
    moved: Counter[str] = field(default_factory=Counter)
    invalid: int = 0
    default: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    handled: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[str, str]] = field(default_factory=list)
    left: int = 0

    def lines(self) -> Iterator[str]:
        """Yield the lines of the report."""
        counts = ", ".join(f"{count:,} {status}" for status, count in sorted(self.moved.items()))
        yield f"Moved {counted(self.moved.total(), 'event')}{f': {counts}' if counts else ''}."
        if self.default:
            yield (
                f"Events without a backend: {self.default:,}. These are delivered to "
                f"{self.default_alias!r}."
            )
        for alias, count in sorted(self.unknown.items()):
            yield (
                f"Events for backend {alias!r}, which is not in OUTBOX_PUBLISHERS: {count:,}. "
                "These wait until you add it."
            )
        for alias, count in sorted(self.handled.items()):
            yield (
                f"Events for backend {alias!r}, which runs handlers: {count:,}. 0.1.1 has run the "
                "handlers, so these are marked as delivered."
            )
        if self.invalid:
            yield (
                f"Invalid events: {self.invalid:,}. These are dead letters now; their errors have "
                "the reasons."
            )
        for event_id, reason in self.refused[:MOST_NAMED]:
            yield f"Could not move event {event_id}: {reason}."
        if len(self.refused) > MOST_NAMED:
            yield f"Could not move {counted(len(self.refused) - MOST_NAMED, 'other event')}."
        if self.left:
            yield (
                f"Events left in outbox_events: {self.left:,}. Run manage.py outbox_upgrade to "
                "move them."
            )
