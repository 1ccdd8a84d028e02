"""The events of a command, an operation or a page, selected by ids or conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from django.db.models import Q

from .exact_text import contains, equals, starts_with


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSelection:
    """The events that satisfy every condition that is set; without any, all events.

    Attributes:
        ids: Rows of the outbox; empty for any.
        event_type: An exact type, or a pattern that ends with `*` for any text (`order.*`).
        since: The earliest time at which the events were published to the outbox.
        until: The time before which they were published.
        error: A part of `last_error`.
    """

    ids: tuple[int, ...] = ()
    backend: str = ""
    status: str = ""
    event_type: str = ""
    key: str = ""
    source: str = ""
    since: datetime | None = None
    until: datetime | None = None
    error: str = ""

    def conditions(self) -> list[Any]:
        """Return the filter for a queryset of events."""
        lookups: dict[str, Any] = {
            "id__in": self.ids,
            "publisher_backend": self.backend,
            "status": self.status,
            "partition_key": self.key,
            "created_at__gte": self.since,
            "created_at__lt": self.until,
        }
        found: list[Any] = [Q(**{name: value}) for name, value in lookups.items() if value]
        if self.source:
            found.append(equals("source", self.source))
        if self.error:
            found.append(contains("last_error", self.error))
        prefix = self.event_type.removesuffix("*")
        if prefix:
            matches = equals if prefix == self.event_type else starts_with
            found.append(matches("event_type", prefix))
        return found

    def as_json(self) -> dict[str, Any]:
        """Return the conditions that are set as values of JSON; times are in ISO 8601."""
        return {name: _plain(value) for name, value in asdict(self).items() if value}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> EventSelection:
        """Return the selection of the result of `as_json`.

        Raises ValueError for an unknown condition, which a newer version may have: ignoring it
        would select too many events.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"selection: unknown conditions {', '.join(sorted(unknown))}")
        known = dict(values)
        for name in ("since", "until"):
            if name in known:
                known[name] = datetime.fromisoformat(known[name])
        known["ids"] = tuple(known.get("ids", ()))
        return cls(**known)

    def __str__(self) -> str:
        """Return the selection as text, such as `backend orders, type order.*` or `all events`."""
        told = [f"{_WORDS[name]} {_told(value)}" for name, value in self.as_json().items()]
        return ", ".join(told) or "all events"


_WORDS = {
    "ids": "ids",
    "backend": "backend",
    "status": "status",
    "event_type": "type",
    "key": "key",
    "source": "source",
    "since": "since",
    "until": "until",
    "error": "error with",
}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return list(value) if isinstance(value, tuple) else value


SHOWN_IDS = 5


def _told(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    more = len(value) - SHOWN_IDS
    return " ".join(map(str, value[:SHOWN_IDS])) + (f" and {more:,} more" if more > 0 else "")
