"""A call of publish_events with something wrong in it is refused, and says where it is."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from django.db import transaction
from django.test import override_settings

from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import (
    InvalidEvent,
    InvalidPublisherConfig,
    PayloadTooLarge,
    PublishError,
    UnknownBackend,
    WrongTransaction,
)
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher

from .many import subjects
from .statements import statements
from .test_bad_input import (
    BACKENDS,
    CONFIGS,
    INVALID,
    NAIVE,
    TOO_LARGE,
    elsewhere,
    limited,
    order_commits,
    refused,
    table,
)
from .test_publish import SDKS

__all__ = ["elsewhere"]  # a fixture
VALID = {"event_type": "order.placed", "source": "/shop/orders", "data": {"id": 1}}


def events_with(**changes: Any) -> list[dict[str, Any]]:
    """A valid event, and one with some keywords changed."""
    return [VALID, {**VALID, **changes}]


def error_of(call: Callable[[], object]) -> PublishError:
    """The error by which a publish call is refused."""
    with pytest.raises(PublishError) as caught:
        call()
    return caught.value


@table(INVALID, "arguments, field")
def test_invalid_event_is_refused_with_its_index(
    database: str, arguments: dict[str, Any], field: str
) -> None:
    """It raises what publish_event raises, with the event's index, before any SQL."""
    events = events_with(**arguments)
    with order_commits(database), refused(InvalidEvent) as caught:
        publisher.publish_events(events, using=database)
    assert (caught.value.index, caught.value.field) == (1, field)
    alone = error_of(lambda: publisher.publish_event(**events[1], using=database))
    assert alone.index is None
    assert str(caught.value) == f"event 1: {alone}"


@table(CONFIGS, "config")
def test_invalid_publisher_config_is_refused_with_its_index(database: str, config: Any) -> None:
    """It is an event's own or the call's, and is said of an event only where it is its own."""
    events = events_with(publisher_config=config)
    with order_commits(database), refused(InvalidPublisherConfig) as caught:
        publisher.publish_events(events, using=database)
    assert caught.value.index == 1
    assert str(caught.value).startswith("event 1: publisher_config")
    alone = error_of(lambda: publisher.publish_event(**events[1], using=database))
    assert str(caught.value) == f"event 1: {alone}"


@table(BACKENDS, "backend")
def test_unknown_backend_is_refused_with_its_index(database: str, backend: Any) -> None:
    """What is no alias is said with the index of the event that names it."""
    with order_commits(database), refused(UnknownBackend) as caught:
        publisher.publish_events(events_with(backend=backend), using=database)
    assert (caught.value.index, caught.value.alias) == (1, backend)
    assert str(caught.value).startswith("event 1: backend: ")


@table(TOO_LARGE, "arguments")
def test_payload_over_the_limit_is_refused_with_its_index(
    database: str, arguments: dict[str, Any]
) -> None:
    """It raises PayloadTooLarge with both sizes and the index."""
    with order_commits(database), limited(1000), refused(PayloadTooLarge) as caught:
        publisher.publish_events(events_with(**arguments), using=database)
    assert (caught.value.index, caught.value.field, caught.value.limit) == (1, "data", 1000)
    assert caught.value.size > 1000


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"max_retries": -1}, "max_retries"),
        ({"scheduled_at": NAIVE}, "scheduled_at"),
        ({"publisher_config": {1: object()}}, "publisher_config"),
        ({"backend": "no-such-backend"}, "backend"),
    ],
)
@pytest.mark.parametrize("events", [[], [VALID]], ids=["no-events", "an-event"])
def test_wrong_argument_of_the_call_is_refused(
    database: str, arguments: dict[str, Any], field: str, events: list[Any]
) -> None:
    """What is wrong with the call itself is said before the first event is asked for."""

    def generated() -> Iterator[Any]:
        pytest.fail("an event was asked for")
        yield from events

    with order_commits(database):
        for given in (events, generated()):
            with statements() as run:
                error = error_of(
                    lambda given=given: publisher.publish_events(  # type: ignore[misc]
                        given, using=database, **arguments
                    )
                )
            assert (error.index, getattr(error, "field", None), run) == (None, field, [])


def test_config_that_the_backend_does_not_know_is_laid_to_the_event(database: str) -> None:
    """Which backend an event goes to, and so what it knows, is the event's own affair."""
    with order_commits(database), refused(InvalidPublisherConfig) as caught:
        publisher.publish_events([VALID], publisher_config={"a": 1}, using=database)
    assert (caught.value.index, caught.value.backend) == (0, "default")


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_has_at_least_one_row(database: str, batch_size: int) -> None:
    """A batch size below 1 is an error that names it."""
    with order_commits(database), statements() as run:
        with pytest.raises(ValueError, match="batch_size: must be 1 or more"):
            publisher.publish_events([VALID], using=database, batch_size=batch_size)
        assert run == []


# --- All or none ---------------------------------------------------------------------------------


@pytest.mark.parametrize("iterable", [list, tuple, iter])
@pytest.mark.parametrize("batch_size", [2, 3, 100])
@pytest.mark.parametrize("at", [0, 1, 2, 5, 6])
def test_nothing_of_a_refused_call_is_written(
    database: str, iterable: Callable[[Iterable[Any]], Iterable[Any]], batch_size: int, at: int
) -> None:
    """Wherever the fault is, no event of the call stays, and the transaction goes on."""
    events: list[Any] = [{**VALID, "subject": str(number)} for number in range(7)]
    events[at]["source"] = "user service"
    with order_commits(database):
        error = error_of(
            lambda: publisher.publish_events(
                iterable(events), using=database, batch_size=batch_size
            )
        )
        assert error.index == at
    assert subjects(database) == [""]  # of the event that came behind


@pytest.mark.parametrize("iterable", [list, iter])
def test_refused_call_outside_of_a_transaction_writes_nothing(
    database: str, iterable: Callable[[Iterable[Any]], Iterable[Any]]
) -> None:
    """The call is a transaction of its own, which an error ends without a trace."""
    events = [VALID, VALID, VALID, {**VALID, "data": object()}]
    error = error_of(
        lambda: publisher.publish_events(iterable(events), using=database, batch_size=2)
    )
    assert error.index == 3
    assert subjects(database) == []


# --- What is no event ----------------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, 5, "order.placed", ["order.placed"], OutboxEvent])
def test_object_that_is_no_event_is_refused(database: str, given: Any) -> None:
    """It raises TypeError with the index, and says what is taken."""
    with order_commits(database), statements() as run:
        with pytest.raises(TypeError, match=r"^event 1: expected .*dictionary with the keywords"):
            publisher.publish_events([VALID, given], using=database)
        assert run == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({**VALID, "sourc": "/shop"}, "event 1: unknown keyword 'sourc'; choose from event_type, "),
        ({**VALID, "using": "default"}, "event 1: unknown keyword 'using'"),
        ({**VALID, "id": "1", "type": "t"}, "event 1: unknown keyword 'id', 'type'"),
        ({**VALID, 5: "a"}, "event 1: unknown keyword 5"),
        ({"source": "/shop"}, "event 1: missing keyword 'event_type'"),
        ({}, "event 1: missing keyword 'event_type', 'source'"),
    ],
)
def test_wrong_keyword_is_refused(database: str, given: dict[Any, Any], message: str) -> None:
    """A keyword too many or too few is a TypeError that names it, as for publish_event."""
    with order_commits(database), statements() as run:
        with pytest.raises(TypeError) as caught:
            publisher.publish_events([VALID, given], using=database)
        assert run == []
    assert str(caught.value).startswith(message)


def test_events_that_only_the_sdk_takes_are_refused(database: str) -> None:
    """What the SDK lets through is said with the index, as is a new name over 20 characters."""
    sdk = SDKS["http"]({"type": "t", "source": "user service", "id": "1"}, {})
    new = {**VALID, "extensions": {"x" * 21: "a"}}
    for event, field in ((new, "extensions"), (sdk, "source")):
        with refused(InvalidEvent) as caught:
            publisher.publish_events([VALID, VALID, event], using=database)
        assert (caught.value.index, caught.value.field) == (2, field)


def test_received_events_with_long_extension_names_are_forwarded(database: str) -> None:
    """The specification only advises against such names, and brokers use them."""
    members = {"specversion": "1.0", "id": "1", "type": "t", "source": "s", "x" * 21: "a"}
    assert publisher.publish_events([VALID, CloudEvent.from_dict(members)], using=database) == 2


def test_errors_with_an_index_can_be_pickled(database: str) -> None:
    """A pool of processes or a task queue passes them on with the index."""
    for changes in ({"source": ""}, {"backend": "gone"}, {"publisher_config": 5}):
        error = error_of(
            lambda changes=changes: publisher.publish_events(  # type: ignore[misc]
                events_with(**changes), using=database
            )
        )
        again = pickle.loads(pickle.dumps(error))  # noqa: S301
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
        assert again.index == 1


# --- The transaction -----------------------------------------------------------------------------


def test_transaction_on_another_database_only_is_refused(database: str, elsewhere: str) -> None:
    """The events would not commit with the change, so none of them is even asked for."""

    def generated() -> Iterator[Any]:
        pytest.fail("an event was asked for")
        yield VALID

    with order_commits(elsewhere), refused(WrongTransaction) as caught:
        publisher.publish_events(generated(), using=database)
    assert caught.value.index is None
    assert not OutboxEvent.objects.using(database).exists()


@override_settings(OUTBOX_REQUIRE_TRANSACTION=True)
def test_publishing_outside_of_a_transaction_can_be_forbidden(database: str) -> None:
    """With OUTBOX_REQUIRE_TRANSACTION it is an error, and inside of one it is none."""
    for events in ([VALID], []):
        with refused(WrongTransaction):
            publisher.publish_events(events, using=database)
    with transaction.atomic(using=database):
        assert publisher.publish_events([VALID], using=database) == 1
