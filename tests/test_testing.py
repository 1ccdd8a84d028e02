"""The helpers that applications test with."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from django.db import transaction
from django.test import override_settings
from django.utils import timezone

from django_broadcaster.backends import locmem
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import BackendConfigurationError, Rejected
from django_broadcaster.models import OutboxBackendState, OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.registry import event_registry
from django_broadcaster.testing import (
    CapturedEvents,
    assert_not_published,
    assert_published,
    capture_events,
    containing,
    deliver_events,
    receive_event,
)
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
    outbox_events: CapturedEvents,  # noqa: F811
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
        assert_published("order.placed", events=events)
        transaction.set_rollback(True)
    for where in (events, None):
        with pytest.raises(AssertionError, match="nothing at all"):
            assert_published("order.placed", events=where)


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


class Declined(Exception):
    """What a handler of the tests raises."""


LOCAL = override_settings(
    OUTBOX_PUBLISHERS={"default": {"BACKEND": "django_broadcaster.backends.LocalBackend"}}
)


@pytest.fixture
def handlers() -> Iterator[list[str]]:
    """Handlers that fail for `order.declined`, and publish once more for `order.placed`."""
    seen: list[str] = []

    @event_registry.register("order.*", name="testing.look")
    def look(event: Any) -> None:
        if event.type == "order.declined":
            raise Declined(event.subject)
        if event.type == "order.placed":
            publisher.publish_event("order.confirmed", "/shop", subject=event.subject)
        seen.append(event.type)

    @event_registry.register("again.*", name="testing.again")
    def again(event: Any) -> None:
        publisher.publish_event(event.type, "/shop")

    with LOCAL:
        yield seen
    for name in ("testing.look", "testing.again"):
        event_registry.unregister(name)


def test_delivery_returns_what_arrived(handlers: list[str]) -> None:
    """Every event that is due is delivered, and those that the handlers publish, too."""
    place("1")
    assert [event.event_type for event in deliver_events()] == ["order.placed", "order.confirmed"]
    assert handlers == ["order.placed", "order.confirmed"]
    assert {event.status for event in OutboxEvent.objects.all()} == {"published"}
    assert deliver_events() == []


def test_delivery_raises_what_the_handler_raised(handlers: list[str]) -> None:
    """A handler that raised does not count as one that ran: its own exception is raised."""
    place("1")
    publisher.publish_event("order.declined", "/shop", subject="7")
    with pytest.raises(Declined, match="7") as caught:
        deliver_events()
    assert "'order.declined'" in caught.value.__notes__[0]
    assert "look" in [entry.name for entry in caught.traceback]
    assert "order.placed" in handlers


def test_delivery_raises_a_group_where_several_failed(handlers: list[str]) -> None:
    """Each failure is in the group, with a note of its event."""
    for subject in ("7", "8"):
        publisher.publish_event("order.declined", "/shop", subject=subject)
    with pytest.raises(ExceptionGroup, match="2 events failed") as caught:
        deliver_events()
    assert [str(error) for error in caught.value.exceptions] == ["7", "8"]


def test_delivery_raises_what_the_backend_refused() -> None:
    """An event that becomes a dead letter is raised as the backend's own error."""
    options = {"max_message_bytes": 300}
    backend = {"BACKEND": "django_broadcaster.backends.LocMemBackend", "OPTIONS": options}
    place("1", partition_key="x" * 200)
    with override_settings(OUTBOX_PUBLISHERS={"default": backend}), pytest.raises(Rejected):
        deliver_events()


def test_delivery_raises_for_what_is_left() -> None:
    """Events of a backend that is paused or away are named instead of forgotten."""
    place("1")
    OutboxBackendState.objects.create(backend="default", paused_at=timezone.now())
    with pytest.raises(AssertionError, match=r"order.placed to 'default' \(a backend"):
        deliver_events()
    OutboxBackendState.objects.all().delete()
    away = {
        "BACKEND": "django_broadcaster.backends.RedisStreamBackend",
        "OPTIONS": {"url": "redis://127.0.0.1:1/0"},
    }
    with (
        override_settings(OUTBOX_PUBLISHERS={"default": away}),
        pytest.raises(AssertionError, match=r"not delivered: order.placed to 'default'"),
    ):
        deliver_events()


def test_delivery_ends_where_handlers_publish_without_end(handlers: list[str]) -> None:
    """After `limit` events the call gives up, and names what is left."""
    publisher.publish_event("again.and", "/shop")
    with pytest.raises(AssertionError, match=r"again\.and"):
        deliver_events(limit=5)


def test_assert_not_published() -> None:
    """It raises with the events that are there, and only for those that match."""
    assert_not_published("order.placed")
    place("1")
    assert_not_published("order.paid")
    assert_not_published("order.placed", subject="2")
    with pytest.raises(AssertionError, match=r"was published:\n  {'subject': '1', 'data'"):
        assert_not_published("order.placed")
    with pytest.raises(AssertionError, match=r"with {'subject': '1'} was published"):
        assert_not_published("order.placed", subject="1")
    with pytest.raises(TypeError, match="subjekt"):
        assert_not_published("order.placed", subjekt="1")


@pytest.mark.parametrize(
    ("expected", "matches"),
    [
        ({}, True),
        ({"a": 1}, True),
        ({"a": 2}, False),
        ({"z": 1}, False),
        ({"b": {"c": 2}}, True),
        ({"b": {"c": 2, "x": None}}, False),
        ({"lines": [{"id": 1}, {"id": 2}]}, True),
        ({"lines": [{"id": 1}]}, False),
        ({"lines": [{"id": 2}, {"id": 1}]}, False),
        ([], False),
    ],
)
def test_part_of_the_data_matches(expected: Any, matches: bool) -> None:
    """`containing` compares the keys that it has, at any depth."""
    data = {"a": 1, "b": {"c": 2, "d": 3}, "lines": [{"id": 1, "x": 0}, {"id": 2}]}
    assert (data == containing(expected)) is matches
    event = publisher.publish_event("order.placed", "/shop", data)
    if matches:
        assert assert_published("order.placed", data=containing(expected)) == event
    else:
        assert_not_published("order.placed", data=containing(expected))
        with pytest.raises(AssertionError, match="containing"):
            assert_published("order.placed", data=containing(expected))


def test_captured_events_read_like_a_list() -> None:
    """Length, items, slices, equality and text are those of a list."""
    with capture_events() as events:
        one, two = place("1"), place("2")
    assert (len(events), events[0], events[-1], events[1:]) == (2, one, two, [two])
    assert events == [one, two]
    assert events != [two]
    assert repr(events) == repr([one, two])
    events.clear()
    assert not events


def test_locmem_has_the_messages_to_all_aliases() -> None:
    """Without an alias the list has every message, in the order of delivery."""
    with override_settings(OUTBOX_PUBLISHERS=TWO):
        locmem.clear()
        for number, alias in enumerate(("one", "two", "one")):
            place(str(number), backend=alias)
            deliver_events()
        assert [message.subject for message in locmem.outbox()] == ["0", "1", "2"]
        assert [message.subject for message in locmem.outbox("one")] == ["0", "2"]
    locmem.clear()
    assert locmem.outbox() == []


def _note(calls: list[str], name: str, event: CloudEvent) -> None:
    calls.append(name)


CONSUMERS = {"billing": {"CONSUMER": "django_broadcaster.consumers.RedisStreamConsumer"}}


@LOCAL
@override_settings(OUTBOX_CONSUMERS=CONSUMERS)
def test_receive_event_runs_the_handlers_of_its_consumer_once() -> None:
    """Handlers of other consumers do not run, and a repetition is skipped, as in operation."""
    calls: list[str] = []
    for name in ("billing", "another"):
        register = event_registry.register("invoice.sent", name=name, consumer=name)
        register(partial(_note, calls, name))
    event = CloudEvent("invoice.sent", "/billing", {"number": 1})
    try:
        first = receive_event(event, consumer="billing")
        deliver_events()
        assert receive_event(event, consumer="billing").pk == first.pk
        deliver_events()
    finally:
        for name in ("billing", "another"):
            event_registry.unregister(name)
    assert (first.data, calls) == ({"number": 1}, ["billing"])


@LOCAL
@override_settings(OUTBOX_CONSUMERS=CONSUMERS)
def test_receive_event_names_an_unknown_consumer() -> None:
    """A wrong alias is an error that lists the right ones."""
    with pytest.raises(BackendConfigurationError, match="no 'bill'; it has 'billing'"):
        receive_event(CloudEvent("invoice.sent", "/billing"), consumer="bill")
