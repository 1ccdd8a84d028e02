"""A project's code, which mypy and pyright have to understand; nothing here is run.

`tests/test_typing.py` runs both on it.
"""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any, assert_type

from django_broadcaster.events import CloudEvent
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import OutboxPublisher, publisher
from django_broadcaster.registry import event_registry
from django_broadcaster.testing import (
    OutboxClock,
    assert_not_published,
    assert_published,
    capture_events,
    containing,
    drain,
    outbox_clock,
)

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def takes_text(*texts: str) -> None:
    """What attributes of a row are given to."""


def publishes(event: CloudEvent) -> None:
    """The publish calls, with every kind of argument."""
    assert_type(publisher, OutboxPublisher)
    row = publisher.publish_event("order.placed", "/shop", {"order": 1}, "1", scheduled_at=NOON)
    assert_type(row, OutboxEvent)
    takes_text(row.event_type)
    assert_type(publisher.publish_cloud_event(event, backend="default"), OutboxEvent)
    assert_type(publisher.publish_events([event, {"event_type": "a", "source": "/s"}]), int)
    assert_type(publisher.process_pending_events(), int)


async def publishes_awaiting(event: CloudEvent) -> None:
    """The awaitable calls have the arguments and results of the others."""
    assert_type(await publisher.apublish_event("order.placed", "/shop", {"order": 1}), OutboxEvent)
    assert_type(await publisher.apublish_cloud_event(event), OutboxEvent)
    assert_type(await publisher.apublish_events([event], batch_size=10), int)
    pending: Awaitable[int] = publisher.apublish_events([])
    await pending


def manages() -> None:
    """The manager has the methods of the page on models, and Django's own."""
    events = OutboxEvent.objects
    assert_type(events.create(event_type="order.placed", source="/shop"), OutboxEvent)
    assert_type(events.get(pk=1), OutboxEvent)
    assert_type(events.filter(status="failed").first(), OutboxEvent | None)
    assert_type(events.undelivered().count(), int)
    assert_type(events.dead_letters().replay(), int)
    assert_type(events.due(NOON).exists(), bool)
    assert_type(events.undelivered().cancel(), int)
    assert_type(events.using("default").dead_letters().hasten(), int)
    assert_type(events.expired(NOON).count(), int)
    assert_type(events.bulk_create([OutboxEvent(event_type="a", source="/s")]), list[OutboxEvent])


def reads(row: OutboxEvent) -> None:
    """A row, and its event."""
    assert_type(row.cloud_event, CloudEvent)
    assert_type(row.to_cloud_event(), dict[str, Any])
    event = CloudEvent("order.placed", "/shop", {"order": 1}, "1", id="1", time=NOON)
    assert_type(event.event_type, str)
    assert_type(event.type, str)
    assert_type(event.subject, str)
    assert_type(event.time, datetime | None)
    assert_type(event.to_json(), bytes)


@event_registry.register("order.placed")
@event_registry.register("order.paid")
def handles(event: CloudEvent) -> None:
    """A handler stays the function that it is."""


def calls_its_handler(event: CloudEvent) -> None:
    """What the decorator returns is called like the function."""
    handles(event)


def is_tested() -> None:
    """The helpers for tests."""
    with capture_events() as events:
        assert_type(events[0], OutboxEvent)
        assert_type(events[1:], list[OutboxEvent])
        takes_text(*(event.subject for event in events))
    assert_type(assert_published("order.placed", data=containing({"order": 1})), OutboxEvent)
    assert_not_published("order.paid", events=events)
    assert_type(assert_published("order.placed", count=1, subject=1), OutboxEvent)
    assert_type(drain(), list[OutboxEvent])
    with outbox_clock() as clock:
        assert_type(clock, OutboxClock)
        clock.advance(days=1, hours=2.5)
        assert_type(clock.now(), datetime)
