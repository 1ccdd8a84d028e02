"""The helpers that applications test with."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from cryptography.fernet import Fernet
from django.db import transaction
from django.test import override_settings
from django.utils import timezone

from django_broadcaster.backends import locmem
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import BackendConfigurationError, Reject, Rejected, Retry
from django_broadcaster.models import OutboxBackendState, OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.registry import event_registry
from django_broadcaster.testing import (
    CapturedEvents,
    assert_not_published,
    assert_published,
    capture_events,
    containing,
    drain,
    receive_event,
)
from django_broadcaster.testing.pytest_plugin import published_events  # noqa: F401

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
    published_events: CapturedEvents,  # noqa: F811
) -> None:
    """The fixture of the pytest plugin is `capture_events` around the test."""
    assert published_events == []
    event = place("1")
    assert published_events == [event]


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
        with pytest.raises(AssertionError, match="no event was published"):
            assert_published("order.placed", events=where)


def test_assert_published_says_what_differs() -> None:
    """The error lists the nearest events, and each place where they differ from what is wanted."""
    place("1")
    publisher.publish_event("order.paid", "/shop", {"lines": [{"id": 7, "price": 9}]})
    with pytest.raises(AssertionError) as caught:
        assert_published(
            "order.paid", source="/till", data={"lines": [{"id": 7, "price": 8, "tax": 1}]}
        )
    assert str(caught.value).splitlines() == [
        "Expected an event of type 'order.paid', source '/till', "
        "data {'lines': [{'id': 7, 'price': 8, 'tax': 1}]}, but found none.",
        "Nearest of 2 other events:",
        "  order.paid from /shop, to 'default', data {'lines': [{'id': 7, 'price': 9}]}",
        "    source: '/shop', expected '/till'",
        "    data.lines[0].price: 9, expected 8",
        "    data.lines[0].tax: missing, expected 1",
        "  order.placed from /shop, subject '1', to 'default', data {'number': '1'}",
        "    event_type: 'order.placed', expected 'order.paid'",
        "    source: '/shop', expected '/till'",
        "    data.lines: missing, expected [{'id': 7, 'price': 8, 'tax': 1}]",
        "    data.number: '1', expected no such key",
    ]


def test_assert_published_shows_a_few_events() -> None:
    """Of many events, those with the most similar type and the fewest differences are shown."""
    for number in range(5):
        place(str(number), partition_key="odd" if number % 2 else "even")
    publisher.publish_event("invoice.sent", "/shop")
    with pytest.raises(AssertionError) as caught:
        assert_published("order.place", subject="3", partition_key="odd")
    text = str(caught.value)
    assert "Nearest of 6 other events:\n  order.placed from /shop, subject '3'" in text
    assert text.count(" from /shop") == 3
    assert "invoice.sent" not in text


def test_assert_published_counts() -> None:
    """With a count, exactly that many events match; one for several backends counts once."""
    with override_settings(OUTBOX_PUBLISHERS=TWO, OUTBOX_ROUTES={"*": ["one", "two"]}):
        first = place("1")
        assert assert_published("order.placed", count=1) == first
        place("2")
    assert_published("order.placed", count=2)
    assert_published("order.placed", count=2, backend="two")
    assert_published("order.placed", count=1, subject="2")
    with pytest.raises(AssertionError, match=r"Expected 1 event .* but found 2:\n  order.placed"):
        assert_published("order.placed", count=1)
    with pytest.raises(AssertionError) as caught:
        assert_published("order.placed", count=3, subject="2")
    assert "Expected 3 events of type 'order.placed', subject '2', but found 1:" in str(
        caught.value
    )
    assert "    subject: '1', expected '2'" in str(caught.value)
    with pytest.raises(ValueError, match="use assert_not_published for none"):
        assert_published("order.placed", count=0)


def test_assert_published_takes_what_the_publish_call_takes() -> None:
    """Numbers and UUIDs as identifiers, decimals and UUIDs in data, and the backend's alias."""
    price, key = Decimal("9.00"), uuid4()
    event = publisher.publish_event(
        "order.placed", "/shop", {"price": price, "key": key}, subject=7, partition_key=key
    )
    whole = {"price": price, "key": key}
    wanted = {"subject": 7, "partition_key": key, "backend": "default", "data": whole}
    assert assert_published("order.placed", **wanted) == event
    assert assert_published("order.placed", data=containing({"key": key})) == event
    assert_not_published("order.placed", data={"price": Decimal("8.00"), "key": key})


@pytest.mark.parametrize("data", [{"order": 1}, b"order 1"], ids=["json", "bytes"])
@pytest.mark.parametrize("encrypts", [False, True], ids=["plain", "encrypted"])
def test_assert_published_sees_data_as_published(data: Any, encrypts: bool) -> None:
    """Encrypted data are decrypted, and bytes are compared as bytes."""
    keys = [Fernet.generate_key().decode()] if encrypts else []
    with override_settings(OUTBOX_ENCRYPTION_KEYS=keys), capture_events() as events:
        event = publisher.publish_event("order.placed", "/shop", data)
        for where in (None, events):
            assert assert_published("order.placed", events=where, data=data) == event
            assert_not_published("order.placed", events=where, data="another")
        assert repr(data) in repr(events)
    if encrypts:
        assert "(encrypted)" in repr(events)


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
    assert [event.event_type for event in drain()] == ["order.placed", "order.confirmed"]
    assert handlers == ["order.placed", "order.confirmed"]
    assert {event.status for event in OutboxEvent.objects.all()} == {"published"}
    assert drain() == []


def test_delivery_raises_what_the_handler_raised(handlers: list[str]) -> None:
    """A handler that raised does not count as one that ran: its own exception is raised."""
    place("1")
    publisher.publish_event("order.declined", "/shop", subject="7")
    with pytest.raises(Declined, match="7") as caught:
        drain()
    assert "order.declined from /shop, subject '7'" in caught.value.__notes__[0]
    assert "look" in [entry.name for entry in caught.traceback]
    assert "order.placed" in handlers


def test_delivery_raises_a_group_where_several_failed(handlers: list[str]) -> None:
    """Each failure is in the group, with a note of its event."""
    for subject in ("7", "8"):
        publisher.publish_event("order.declined", "/shop", subject=subject)
    with pytest.raises(ExceptionGroup, match="2 failures") as caught:
        drain()
    assert [str(error) for error in caught.value.exceptions] == ["7", "8"]


@pytest.mark.parametrize("error", [Retry("later"), Reject("never")], ids=lambda each: str(each))
def test_delivery_raises_what_each_handler_raised(handlers: list[str], error: Exception) -> None:
    """Handlers of one event that fail are all in the group, with the errors of their own."""

    @event_registry.register("order.declined", name="testing.decide")
    def decide(event: Any) -> None:
        raise error

    publisher.publish_event("order.declined", "/shop", subject="7")
    try:
        with pytest.raises(ExceptionGroup, match="2 failures") as caught:
            drain()
    finally:
        event_registry.unregister("testing.decide")
    assert {type(each) for each in caught.value.exceptions} == {Declined, type(error)}


def test_delivery_raises_what_the_backend_refused() -> None:
    """An event that becomes a dead letter is raised as the backend's own error."""
    options = {"max_message_bytes": 300}
    backend = {"BACKEND": "django_broadcaster.backends.LocMemBackend", "OPTIONS": options}
    place("1", partition_key="x" * 200)
    with override_settings(OUTBOX_PUBLISHERS={"default": backend}), pytest.raises(Rejected):
        drain()


def test_delivery_raises_for_what_is_left() -> None:
    """Events of a backend that is paused or away are named instead of forgotten."""
    place("1")
    OutboxBackendState.objects.create(backend="default", paused_at=timezone.now())
    with pytest.raises(AssertionError, match=r"backend is paused.*\n  order.placed from"):
        drain()
    OutboxBackendState.objects.all().delete()
    away = {
        "BACKEND": "django_broadcaster.backends.RedisStreamBackend",
        "OPTIONS": {"url": "redis://127.0.0.1:1/0"},
    }
    with (
        override_settings(OUTBOX_PUBLISHERS={"default": away}),
        pytest.raises(AssertionError, match=r"Events are left: .*unavailable.*\n  order.placed"),
    ):
        drain()


def test_delivery_ends_where_handlers_publish_without_end(handlers: list[str]) -> None:
    """After `limit` events the call gives up, and names what is left."""
    publisher.publish_event("again.and", "/shop")
    with pytest.raises(AssertionError, match=r"limit of 5 events is reached.*\n  again\.and"):
        drain(limit=5)


def test_the_limit_includes_the_events_of_earlier_passes(handlers: list[str]) -> None:
    """A backend that gets events from the handlers of another one is given no second limit."""
    local = {"BACKEND": "django_broadcaster.backends.LocalBackend"}

    @event_registry.register("many.placed", name="testing.many")
    def place_many(event: Any) -> None:
        for number in range(4):
            place(str(number), backend="one")

    try:
        with override_settings(OUTBOX_PUBLISHERS={"one": TWO["one"], "two": local}):
            publisher.publish_event("many.placed", "/shop", backend="two")
            with pytest.raises(AssertionError, match=r"limit of 3 .*\n  .* '2'.*\n  .* '3'"):
                drain(limit=3)
    finally:
        event_registry.unregister("testing.many")


@pytest.mark.parametrize("status", ["pending", "scheduled", "retry"])
def test_due_events_of_another_backend_are_left_by_the_limit(status: str) -> None:
    """Also those that no relay has made pending yet."""
    with override_settings(OUTBOX_PUBLISHERS=TWO):
        place("1", backend="one")
        place("2", backend="two")
        OutboxEvent.objects.filter(publisher_backend="two").update(status=status)
        with pytest.raises(AssertionError, match=r"limit of 1 events is reached.*\n  .* '2'"):
            drain(limit=1)


@pytest.mark.parametrize("status", ["scheduled", "retry"])
def test_events_that_are_due_later_are_not_left(status: str) -> None:
    """They wait for their time, and not because of the limit."""
    place("1")
    later = timezone.now() + timedelta(hours=1)
    OutboxEvent.objects.update(status=status, scheduled_at=later)
    place("2")
    assert [event.subject for event in drain(limit=1)] == ["2"]


@pytest.mark.parametrize("limit", [3, 4, 5])
def test_the_limit_is_that_of_all_backends_together(handlers: list[str], limit: int) -> None:
    """Two backends with two events each reach a limit of 3, and not one of 4."""
    with override_settings(OUTBOX_PUBLISHERS=TWO):
        for number, alias in enumerate(("one", "two") * 2):
            place(str(number), backend=alias)
        if limit >= 4:
            assert len(drain(limit=limit)) == 4
            return
        with pytest.raises(AssertionError, match=r"limit of 3 events is reached.*\n  .* '3'"):
            drain(limit=limit)
    assert OutboxEvent.objects.filter(status="published").count() == 3


def test_assert_not_published() -> None:
    """It raises with the events that are there, and only for those that match."""
    assert_not_published("order.placed")
    place("1")
    assert_not_published("order.paid")
    assert_not_published("order.placed", subject="2")
    with pytest.raises(AssertionError, match=r"Expected no event .* found:\n  order.placed"):
        assert_not_published("order.placed")
    with pytest.raises(AssertionError, match=r"no event .* subject '1', but found"):
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
    events.clear()
    assert not events


def test_captured_events_are_readable(settings: pytest.FixtureRequest) -> None:
    """A failed comparison shows one event in a line, with its key, destination and data."""
    settings.OUTBOX_PUBLISHERS = TWO  # type: ignore[attr-defined]
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    with capture_events() as events:
        assert repr(events) == "[]"
        place("1", backend="one", partition_key="order-1")
        publisher.publish_event(
            "order.due", "/shop", "x" * 1000, scheduled_at=moment, backend="two"
        )
    assert repr(events).splitlines() == [
        "[",
        "  order.placed from /shop, subject '1', key 'order-1', to 'one', data {'number': '1'},",
        "  order.due from /shop, to 'two', scheduled for 2030-01-01 00:00:00+00:00, "
        f"data '{'x' * 299}...,",
        "]",
    ]


def test_locmem_has_the_messages_to_all_aliases() -> None:
    """Without an alias the list has every message, in the order of delivery."""
    with override_settings(OUTBOX_PUBLISHERS=TWO):
        locmem.clear()
        for number, alias in enumerate(("one", "two", "one")):
            place(str(number), backend=alias)
            drain()
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
        drain()
        assert receive_event(event, consumer="billing").pk == first.pk
        drain()
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
