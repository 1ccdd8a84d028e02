"""What a move has done, for the one who runs it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

MOST_NAMED = 5


@dataclass
class Report:
    """Counts of a move, and what somebody has to look at.

    Attributes:
        moved: Rows that moved, by the status that they have now.
        invalid: Undelivered events that became dead letters, because no event may be like that.
        default: Undelivered events that named no backend.
        default_alias: The backend that these go to.
        unknown: Undelivered events by alias, for aliases that OUTBOX_PUBLISHERS lacks.
        handled: Undelivered events by alias, for aliases that run handlers; 0.1.1 has run these.
        refused: Events that could not move, with the reason.
        left: Rows in the table that they come from.
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
        """Yield the report, a sentence each."""
        counts = ", ".join(f"{count:,} {status}" for status, count in sorted(self.moved.items()))
        yield f"Moved {self.moved.total():,} events{f': {counts}' if counts else ''}."
        if self.default:
            yield f"Without a backend: {self.default:,}. These go to {self.default_alias!r}."
        for alias, count in sorted(self.unknown.items()):
            yield (
                f"For the backend {alias!r}, which OUTBOX_PUBLISHERS lacks: {count:,}. "
                "These wait until it is there."
            )
        for alias, count in sorted(self.handled.items()):
            yield (
                f"For the backend {alias!r}, which runs handlers: {count:,}. 0.1.1 has run the "
                "handlers, so these are published."
            )
        if self.invalid:
            yield (
                f"Not valid: {self.invalid:,}. These are dead letters now, and their errors say "
                "why."
            )
        for event_id, reason in self.refused[:MOST_NAMED]:
            yield f"Could not move event {event_id}: {reason}."
        if len(self.refused) > MOST_NAMED:
            yield f"Could not move {len(self.refused) - MOST_NAMED:,} further events."
        if self.left:
            yield f"Left in outbox_events: {self.left:,}. Run manage.py outbox_upgrade for them."
