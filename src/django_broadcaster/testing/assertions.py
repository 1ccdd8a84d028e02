"""Assertions about what was published, and values that match a part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django_broadcaster.models import OutboxEvent


def assert_published(
    event_type: str,
    *,
    events: Iterable[OutboxEvent] | None = None,
    using: str | None = None,
    **attributes: Any,
) -> OutboxEvent:
    """Return the first event of this type whose attributes of `OutboxEvent` equal those given.

    Looks at `events`, else in the outbox of the database `using` (by default where the router
    reads it), whatever the status. An attribute may be `containing(...)` to match a part.

    Raises:
        AssertionError: There is no such event. The text lists the events of the type.
        TypeError: Events don't have such an attribute.
    """
    found = _found(events, using)
    candidates = [event for event in found if event.event_type == event_type]
    for event in _matching(candidates, attributes):
        return event
    raise AssertionError(_explain(event_type, attributes, candidates, found))


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
    candidates = [event for event in _found(events, using) if event.event_type == event_type]
    matching = _matching(candidates, attributes)
    if matching:
        wanted = f" with {attributes!r}" if attributes else ""
        lines = [f"{event_type!r}{wanted} was published:"]
        lines += [f"  {_shown(event, attributes or ('subject', 'data'))}" for event in matching]
        raise AssertionError("\n".join(lines))


def containing(expected: Any) -> Any:
    """Return a value that equals whatever contains `expected`.

    A dictionary is contained in one with more keys, at any depth. Lists have the same length, and
    their items are compared one by one. Everything else has to be equal.
    """
    return _Containing(expected)


class _Containing:
    def __init__(self, expected: Any) -> None:
        self._expected = expected

    def __eq__(self, other: object) -> bool:
        return _contains(other, self._expected)

    __hash__ = None  # type: ignore[assignment]  # equal to values of any hash

    def __repr__(self) -> str:
        return f"containing({self._expected!r})"


def _contains(given: Any, expected: Any) -> bool:
    if isinstance(expected, Mapping):
        return isinstance(given, Mapping) and all(
            name in given and _contains(given[name], value) for name, value in expected.items()
        )
    if isinstance(expected, list | tuple):
        return (
            isinstance(given, list | tuple)
            and len(given) == len(expected)
            and all(map(_contains, given, expected))
        )
    return bool(expected == given)


def _found(events: Iterable[OutboxEvent] | None, using: str | None) -> list[OutboxEvent]:
    from django_broadcaster.models import OutboxEvent

    if events is not None:
        return list(events)
    return list(OutboxEvent.objects.using(using).order_by("id"))


def _matching(candidates: Iterable[OutboxEvent], attributes: dict[str, Any]) -> list[OutboxEvent]:
    _check_names(attributes)
    return [
        event
        for event in candidates
        if all(value == getattr(event, name) for name, value in attributes.items())
    ]


def _check_names(attributes: Iterable[str]) -> None:
    from django_broadcaster.models import OutboxEvent

    known = {field.name for field in OutboxEvent._meta.get_fields()}
    if unknown := sorted(set(attributes) - known):
        raise TypeError(
            f"events have no {', '.join(unknown)}; there are {', '.join(sorted(known))}"
        )


def _explain(
    event_type: str,
    attributes: dict[str, Any],
    candidates: list[OutboxEvent],
    found: list[OutboxEvent],
) -> str:
    if not candidates:
        types = ", ".join(sorted({event.event_type for event in found})) or "nothing at all"
        return f"no {event_type!r} was published, but {types}"
    lines = [f"no {event_type!r} with {attributes!r} was published, but"]
    lines += [f"  {_shown(event, attributes)}" for event in candidates]
    return "\n".join(lines)


def _shown(event: OutboxEvent, names: Iterable[str]) -> str:
    return repr({name: getattr(event, name) for name in names})
