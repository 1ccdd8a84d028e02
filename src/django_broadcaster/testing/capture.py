"""What did this code publish?

with capture_events() as events:
    place_order()
assert_published("order.placed", events=events, subject="42")
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django_broadcaster.signals import event_created

if TYPE_CHECKING:
    from django_broadcaster.models import OutboxEvent


@contextmanager
def capture_events(backend: str | None = None) -> Iterator[list[OutboxEvent]]:
    """Collect the events published in the block, one for each backend that they go to, in order.

    `backend` limits them to those for one alias. An event is there as soon as the publish call
    returns, so also when its transaction is rolled back afterwards. Threads are included.
    """
    events: list[OutboxEvent] = []

    def collect(event: OutboxEvent, **_: Any) -> None:
        if backend is None or event.publisher_backend == backend:
            events.append(event)

    event_created.connect(collect, weak=False)
    try:
        yield events
    finally:
        event_created.disconnect(collect)


def assert_published(
    event_type: str,
    *,
    events: Iterable[OutboxEvent] | None = None,
    using: str | None = None,
    **attributes: Any,
) -> OutboxEvent:
    """Return the first event of this type whose attributes of `OutboxEvent` equal those given.

    Looks at `events`, else in the outbox of the database `using` (by default where the router
    reads it), whatever the status. Raises AssertionError that lists what there is of the type,
    and TypeError for an attribute that events don't have.
    """
    found = list(_in_database(using) if events is None else events)
    candidates = [event for event in found if event.event_type == event_type]
    _check_names(attributes)
    for event in candidates:
        if all(getattr(event, name) == value for name, value in attributes.items()):
            return event
    raise AssertionError(_explain(event_type, attributes, candidates, found))


def _in_database(using: str | None) -> Iterable[OutboxEvent]:
    from django_broadcaster.models import OutboxEvent

    return OutboxEvent.objects.using(using).order_by("id")


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
    for event in candidates:
        lines.append(f"  { ({name: getattr(event, name) for name in attributes})!r}")
    return "\n".join(lines)
