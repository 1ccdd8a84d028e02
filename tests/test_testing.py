"""The helpers that applications test with."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction

from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.testing import assert_published, capture_events
from django_broadcaster.testing.pytest_plugin import outbox_events  # noqa: F401

pytestmark = pytest.mark.django_db

TWO = {alias: {"BACKEND": "django_broadcaster.backends.LocMemBackend"} for alias in ("one", "two")}


def place(number: str, **options: Any) -> OutboxEvent:
    """Publish an event as an application does."""
    return publisher.publish_event(
        "order.placed", "/shop", {"number": number}, subject=number, **options
    )


def test_capture_collects_what_is_published_in_the_block() -> None:
    """The events of the block are there in order, and those before and after it are not."""
    place("0")
    with capture_events() as events:
        place("1")
        place("2")
    place("3")
    assert [event.subject for event in events] == ["1", "2"]
    assert all(event.pk for event in events)


def test_capture_for_one_backend(settings: pytest.FixtureRequest) -> None:
    """With a backend, only the events for that alias are collected."""
    settings.OUTBOX_PUBLISHERS = TWO  # type: ignore[attr-defined]
    with capture_events() as both, capture_events("two") as second:
        place("1", backend="one")
        place("2", backend="two")
    assert [event.subject for event in both] == ["1", "2"]
    assert [event.subject for event in second] == ["2"]


def test_capture_ends_when_the_block_raises() -> None:
    """An error in the block passes through, and nothing is collected after it."""
    collected = []

    def fail() -> None:
        with capture_events() as events:
            collected.append(events)
            place("1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    place("2")
    assert [len(events) for events in collected] == [1]


def test_fixture_collects_the_events_of_the_test(
    outbox_events: list[OutboxEvent],  # noqa: F811
) -> None:
    """The fixture of the pytest plugin is `capture_events` around the test."""
    assert outbox_events == []
    event = place("1")
    assert outbox_events == [event]


def test_assert_published_returns_the_event() -> None:
    """It finds the first event with that type and those attributes, in the outbox."""
    place("1")
    second = place("2")
    assert assert_published("order.placed", data={"number": "2"}, source="/shop") == second


def test_assert_published_does_not_find_what_was_rolled_back() -> None:
    """An event whose transaction was rolled back is not in the outbox."""
    with capture_events() as events, transaction.atomic():
        place("1")
        transaction.set_rollback(True)
    assert_published("order.placed", events=events)
    with pytest.raises(AssertionError, match="nothing at all"):
        assert_published("order.placed")


def test_assert_published_says_what_there_is() -> None:
    """When there is no such event, the error shows those of the type, or the other types."""
    place("1")
    with pytest.raises(AssertionError, match=r"'subject': '1'"):
        assert_published("order.placed", subject="2")
    with pytest.raises(AssertionError, match=r"no 'order.paid' .* order\.placed"):
        assert_published("order.paid")


def test_assert_published_refuses_unknown_attributes() -> None:
    """A misspelt attribute is an error of the test, not an event that is missing."""
    with pytest.raises(TypeError, match="subjekt"):
        assert_published("order.placed", subjekt="1")
