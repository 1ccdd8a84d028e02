"""The clock that a test moves, on every database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.test import TestCase, override_settings
from django.utils import timezone

from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import Retry
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.registry import event_registry
from django_broadcaster.testing import OutboxClock, drain, outbox_clock
from tests.support.databases import DATABASES
from tests.support.routing import OneDatabase

LOCAL = {"default": {"BACKEND": "django_broadcaster.backends.LocalBackend"}}


@pytest.fixture(autouse=True)
def local() -> Iterator[None]:
    """Deliver to handlers."""
    with override_settings(OUTBOX_PUBLISHERS=LOCAL):
        yield


@pytest.fixture
def routed(database: str) -> Iterator[str]:
    """Let the router choose the database, as for a project with one."""
    with override_settings(DATABASE_ROUTERS=[OneDatabase(database)]):
        yield database


@pytest.fixture
def clock() -> Iterator[OutboxClock]:
    """A clock to move."""
    with outbox_clock() as each:
        yield each


@pytest.fixture
def calls() -> Iterator[list[str]]:
    """The types that a handler was called with; it asks for a retry of the first `order.placed`."""
    seen: list[str] = []

    @event_registry.register("order.*", name="clock.note")
    def note(event: CloudEvent) -> None:
        seen.append(event.type)
        if event.type == "order.placed" and seen.count(event.type) == 1:
            raise Retry("not yet", after=600)
        if event.type == "order.reminder":
            later = timezone.now() + timedelta(hours=1)
            publisher.publish_event("order.reminder", "/shop", scheduled_at=later)

    yield seen
    event_registry.unregister("clock.note")


def test_scheduled_event_becomes_due(routed: str, clock: OutboxClock, calls: list[str]) -> None:
    """A scheduled event is delivered once the clock has reached its time, and not before."""
    due = timezone.now() + timedelta(days=1)
    publisher.publish_event("order.due", "/shop", scheduled_at=due)
    clock.advance(hours=23)
    assert drain() == []
    clock.advance(hours=1)
    assert [event.event_type for event in drain()] == ["order.due"]
    assert calls == ["order.due"]


def test_clock_moves_to_the_time_of_an_event(
    routed: str, clock: OutboxClock, calls: list[str]
) -> None:
    """The clock can be moved to a time, from which it goes on."""
    publisher.publish_event("order.due", "/shop", scheduled_at=timezone.now() + timedelta(days=400))
    row = OutboxEvent.objects.get()
    clock.move_to(row.scheduled_at)
    assert timezone.now() >= row.scheduled_at
    [delivered] = drain()
    assert delivered.published_at is not None
    assert delivered.published_at >= row.scheduled_at


def test_retry_and_what_waits_for_it_become_due(
    routed: str, clock: OutboxClock, calls: list[str]
) -> None:
    """A retry is due after its pause, and with it the later events of its key, in order."""
    for event_type in ("order.placed", "order.paid"):
        publisher.publish_event(event_type, "/shop", partition_key="7")
    with pytest.raises(Retry, match="not yet"):
        drain()
    clock.advance(seconds=590)
    assert drain() == []
    clock.advance(seconds=10)
    assert [event.event_type for event in drain()] == ["order.placed", "order.paid"]
    assert calls == ["order.placed", "order.placed", "order.paid"]


def test_code_of_the_project_sees_the_moved_time(
    routed: str, clock: OutboxClock, calls: list[str]
) -> None:
    """A handler that schedules the next event an hour ahead runs once for each hour."""
    publisher.publish_event("order.reminder", "/shop")
    for number in range(1, 4):
        assert len(drain()) == 1
        assert drain() == []
        assert calls == ["order.reminder"] * number
        clock.advance(hours=1)


def test_a_reference_to_the_function_is_not_moved(clock: OutboxClock) -> None:
    """A default that refers to the function itself has the time of the process, as documented."""
    clock.advance(days=2)
    assert OutboxEvent().scheduled_at < timezone.now() - timedelta(days=1)


def test_publish_call_sees_the_moved_time(routed: str, clock: OutboxClock) -> None:
    """An event that is published later is of that time, and due at that time."""
    clock.advance(days=2)
    event = publisher.publish_event("order.placed", "/shop")
    before = timezone.now() - timedelta(minutes=1)
    assert event.time is not None
    assert event.time > before
    assert min(event.created_at, event.scheduled_at) > before


def test_expired_event_is_not_sent(routed: str, clock: OutboxClock, calls: list[str]) -> None:
    """An event whose `expirytime` the clock has passed is cancelled."""
    extensions = {"expirytime": timezone.now() + timedelta(hours=1)}
    event = publisher.publish_event("order.due", "/shop", extensions=extensions)
    clock.advance(hours=2)
    assert drain() == []
    event.refresh_from_db()
    assert (event.status, calls) == ("cancelled", [])


def test_old_events_are_purged_by_the_moved_clock(
    routed: str, clock: OutboxClock, calls: list[str]
) -> None:
    """As a relay does, `drain` purges delivered events that are older than OUTBOX_RETENTION."""
    publisher.publish_event("order.due", "/shop")
    assert len(drain()) == 1
    with override_settings(OUTBOX_RETENTION=timedelta(days=7)):
        clock.advance(days=6)
        drain()
        assert OutboxEvent.objects.exists()
        clock.advance(days=2)
        drain()
        assert not OutboxEvent.objects.exists()


def test_clock_goes_back_after_the_block(routed: str, calls: list[str]) -> None:
    """After the block, and after an error in it, time is as before; blocks can be nested."""
    real = timezone.now
    later = timezone.now() + timedelta(hours=3)
    publisher.publish_event("order.due", "/shop", scheduled_at=later)

    def fail() -> None:
        with outbox_clock() as outer, outbox_clock() as inner:
            outer.advance(hours=1)
            inner.advance(hours=1)
            assert timedelta(hours=1) < later - timezone.now() + timedelta(minutes=1)
            assert later - timezone.now() <= timedelta(hours=1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert timezone.now is real
    assert drain() == []


def test_commands_and_the_inline_relay_use_the_moved_clock(
    routed: str, clock: OutboxClock, calls: list[str]
) -> None:
    """`process_pending_events` delivers by the moved clock as well."""
    due = timezone.now() + timedelta(days=1)
    publisher.publish_event("order.due", "/shop", scheduled_at=due)
    assert publisher.process_pending_events() == 0
    clock.advance(days=1)
    assert publisher.process_pending_events() == 1


def test_drain_follows_another_clock_of_the_process(
    routed: str, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`drain` asks Django for the time, so it follows what else moves `timezone.now`."""
    real = timezone.now
    publisher.publish_event("order.due", "/shop", scheduled_at=real() + timedelta(days=1))
    monkeypatch.setattr(timezone, "now", lambda: real() + timedelta(days=2))
    assert len(drain()) == 1


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_clock_without_time_zones(routed: str, zone: str, calls: list[str]) -> None:
    """With USE_TZ off, naive datetimes in TIME_ZONE are moved in the same way."""
    with override_settings(USE_TZ=False, TIME_ZONE=zone), outbox_clock() as clock:
        due = timezone.now() + timedelta(days=1)
        publisher.publish_event("order.due", "/shop", scheduled_at=due)
        assert drain() == []
        clock.move_to(due)
        assert len(drain()) == 1


def test_clock_refuses_to_go_back(clock: OutboxClock) -> None:
    """A negative time is an error that says the rule."""
    with pytest.raises(ValueError, match=r"must be positive, not -60\.0 s"):
        clock.advance(minutes=-1)


class ClockInTestCase(TestCase):
    """The clock in Django's own test case."""

    databases = "__all__"

    def test_scheduled_event_in_a_transaction(self) -> None:
        """The clock is entered as any context, and events of the open transaction are due by it."""
        clock = self.enterContext(outbox_clock())
        for using in DATABASES:
            with self.subTest(using), override_settings(DATABASE_ROUTERS=[OneDatabase(using)]):
                due: Any = timezone.now() + timedelta(hours=1)
                publisher.publish_event("order.due", "/shop", scheduled_at=due)
                assert drain() == []
                clock.advance(hours=1)
                assert len(drain()) == 1
