"""Assertions about the events that were published."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from heapq import nsmallest
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django_broadcaster.events import check_identifier

from .comparison import differences
from .description import data_of, describe

if TYPE_CHECKING:
    from django_broadcaster.models import OutboxEvent

NEAREST = 3
"""The most events of which an error says what differs."""

_IDENTIFIERS = ("event_id", "subject", "partition_key")


def assert_published(
    event_type: str,
    *,
    events: Iterable[OutboxEvent] | None = None,
    using: str | None = None,
    count: int | None = None,
    **attributes: Any,
) -> OutboxEvent:
    """Return the first event of this type whose attributes equal those given.

    Args:
        event_type: The type of the event.
        events: The events to search, such as those of `capture_events`; by default the outbox,
            whatever the status of an event.
        using: The alias of the outbox's database; by default the one from which the router reads.
        count: How many events match; by default one or more. An event that goes to several
            backends counts once.
        attributes: Arguments of `publish_event`, such as `source`, `data`, `partition_key` and
            `backend`, or fields of `OutboxEvent`. With `containing(...)` a part has to match.

    Raises:
        AssertionError: No event matches, or another number than `count`. The message lists the
            nearest events, and what differs.
        TypeError: Events have no such attribute.
        ValueError: `count` is below 1.
    """
    if count is not None and count < 1:
        raise ValueError(f"count must be 1 or more, not {count}; use assert_not_published for none")
    wanted = _Wanted(event_type, attributes)
    found = _found(events, using)
    matching, others = wanted.divide(found)
    matches = len({(event.source, event.event_id) for event in matching})
    if not matching or count not in (None, matches):
        raise AssertionError(_explain(wanted, count, matches, matching, others))
    return matching[0]


def assert_not_published(
    event_type: str,
    *,
    events: Iterable[OutboxEvent] | None = None,
    using: str | None = None,
    **attributes: Any,
) -> None:
    """Raise AssertionError if there is an event of this type with these attributes.

    The arguments are those of `assert_published`. The error lists the events.
    """
    wanted = _Wanted(event_type, attributes)
    matching, _ = wanted.divide(_found(events, using))
    if matching:
        lines = [f"Expected no event {wanted}, but found:", *_listed(matching)]
        raise AssertionError("\n".join(lines))


class _Wanted:
    """The type and the attributes that an event must have."""

    def __init__(self, event_type: str, attributes: dict[str, Any]) -> None:
        _check_names(attributes)
        self._event_type = event_type
        self._attributes = {
            name: check_identifier(name, value) if _is_number_or_uuid(name, value) else value
            for name, value in attributes.items()
        }

    def __str__(self) -> str:
        wanted = (f"{name} {value!r}" for name, value in self._attributes.items())
        return ", ".join((f"of type {self._event_type!r}", *wanted))

    def divide(self, events: Iterable[OutboxEvent]) -> tuple[list[OutboxEvent], list[_Other]]:
        """Return the events that match, and the others with what differs."""
        matching: list[OutboxEvent] = []
        others: list[_Other] = []
        for event in events:
            if lines := self._differences(event):
                others.append(_Other(event, lines))
            else:
                matching.append(event)
        return matching, others

    def nearest(self, others: Iterable[_Other]) -> list[_Other]:
        """Return a few of the others: those with the most similar type and fewest differences."""

        def distance(other: _Other) -> tuple[float, int]:
            given = other.event.event_type
            ratio = SequenceMatcher(None, given, self._event_type, autojunk=False).ratio()
            return 1 - ratio, len(other.differences)

        return nsmallest(NEAREST, others, key=distance)

    def _differences(self, event: OutboxEvent) -> list[str]:
        lines = list(differences("event_type", event.event_type, self._event_type))
        for name, expected in self._attributes.items():
            lines += differences(name, _attribute(event, name), expected)
        return lines


@dataclass(frozen=True, slots=True)
class _Other:
    """An event that does not match, and why."""

    event: OutboxEvent
    differences: Sequence[str]


def _is_number_or_uuid(name: str, value: Any) -> bool:
    """Return True for what `publish_event` accepts as an identifier, and publishes as text."""
    return name in _IDENTIFIERS and isinstance(value, int | UUID)


def _attribute(event: OutboxEvent, name: str) -> Any:
    if name == "data":
        return data_of(event)
    return getattr(event, "publisher_backend" if name == "backend" else name)


def _check_names(attributes: Iterable[str]) -> None:
    from django_broadcaster.models import OutboxEvent

    known = {"backend", *(field.name for field in OutboxEvent._meta.get_fields())}
    if unknown := sorted(set(attributes) - known):
        raise TypeError(
            f"events have no {', '.join(unknown)}; there are {', '.join(sorted(known))}"
        )


def _found(events: Iterable[OutboxEvent] | None, using: str | None) -> list[OutboxEvent]:
    from django_broadcaster.models import OutboxEvent

    if events is not None:
        return list(events)
    return list(OutboxEvent.objects.using(using).order_by("id"))


def _explain(
    wanted: _Wanted,
    count: int | None,
    matches: int,
    matching: Sequence[OutboxEvent],
    others: Sequence[_Other],
) -> str:
    """Return what was expected, what was found, and how the nearest of the others differ."""
    expected = "an event" if count is None else f"{count} event{'s' if count > 1 else ''}"
    if not matching and not others:
        return f"Expected {expected} {wanted}, but no event was published."
    lines = [f"Expected {expected} {wanted}, but found {f'{matches}:' if matches else 'none.'}"]
    lines += _listed(matching)
    if others and (count is None or matches < count):
        lines.append(f"Nearest of {len(others)} other events:" if others[1:] else "Other event:")
        for other in wanted.nearest(others):
            lines.append(f"  {describe(other.event)}")
            lines += (f"    {line}" for line in other.differences)
    return "\n".join(lines)


def _listed(events: Iterable[OutboxEvent]) -> list[str]:
    return [f"  {describe(event)}" for event in events]
