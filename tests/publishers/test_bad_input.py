"""A call with a wrong argument is refused before any SQL, by an error that names the argument."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from django.db import connections, transaction
from django.test import override_settings
from django.utils.connection import ConnectionDoesNotExist
from django.utils.functional import SimpleLazyObject

from django_broadcaster.events import MAX_DEPTH, CloudEvent
from django_broadcaster.exceptions import (
    InvalidEvent,
    InvalidPublisherConfig,
    PayloadTooLarge,
    PublishError,
    UnknownBackend,
    WrongTransaction,
)
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import MAX_RETRIES, publisher
from django_broadcaster.relay.row_to_message import message_of
from django_broadcaster.store import RelayRows
from tests.app.models import Order

from .statements import statements

LOCMEM = "django_broadcaster.backends.LocMemBackend"
LONE_SURROGATE = "\ud800"
NAN, INF = float("nan"), float("inf")
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001  # what is refused
JUST_BEFORE_THE_END_OF_TIME = datetime.max.replace(tzinfo=timezone(-timedelta(hours=12)))
DATABASES = tuple(settings.DATABASES)


def nested(depth: int) -> list[Any]:
    """A list in a list, and so on."""
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def endless() -> dict[str, Any]:
    """A dictionary that contains itself."""
    value: dict[str, Any] = {}
    value["again"] = value
    return value


def _texts(field: str, longest: int | None) -> list[tuple[str, dict[str, Any], str]]:
    """Rows for a field of text: the description, the arguments and the field."""
    found = [
        ("has NUL", "a\0b"),
        ("has a control character", "a\nb"),
        ("has a lone surrogate", f"a{LONE_SURROGATE}"),
        ("is no text", 5.5),
        ("is a bool", True),
        ("is bytes", b"bytes"),
    ]
    if longest:
        found.append(("is too long", "x" * (longest + 1)))
    return [(f"{field} {what}", {field: value}, field) for what, value in found]


def _ones(field: str, *rows: tuple[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
    return [(f"{field} {what}", {field: value}, field) for what, value in rows]


INVALID: list[tuple[str, dict[str, Any], str]] = [
    *_texts("event_type", 255),
    *_ones("event_type", ("is empty", ""), ("is missing", None)),
    *_texts("source", 512),
    *_ones(
        "source",
        ("is empty", ""),
        ("is missing", None),
        ("has a space", "user service"),
        ("has an open bracket", "http://[::1"),
        ("has a broken escape", "/a%zz"),
        ("is not ASCII", "/größe"),
    ),
    *_texts("subject", 512),
    *_texts("event_id", 255),
    *_ones("event_id", ("is empty", "")),
    *_texts("partition_key", 255),
    *_ones("partition_key", ("is empty", "")),
    *_texts("data_content_type", None),
    *_ones(
        "data_content_type",
        ("is no media type", "json"),
        ("is too long", "application/" + "x" * 244),
        ("is not for objects", "image/png"),
    ),
    *_texts("data_schema", None),
    *_ones(
        "data_schema",
        ("is relative", "/schemas/order.json"),
        ("is too long", "https://example.com/" + "x" * 1981),
    ),
    *_ones(
        "time",
        ("is naive", NAIVE),
        ("is no moment", "yesterday"),
        ("has no offset", "2030-01-01T00:00:00"),
        ("is a date", date(2030, 1, 1)),
        ("is a number", 1_900_000_000),
        ("is after the year 9999 in UTC", JUST_BEFORE_THE_END_OF_TIME),
    ),
    *_ones(
        "data",
        ("is NaN", NAN),
        ("is infinite", INF),
        ("has NaN inside", {"a": [1, {"b": NAN}]}),
        ("has infinity inside", [[-INF]]),
        ("is an object", object()),
        ("has an object inside", {"a": [object()]}),
        ("has a set inside", {"a": {1}}),
        ("has bytes inside", {"a": b"bytes"}),
        ("has a key that is no text", {(1, 2): "a"}),
        ("has a key that is NaN", {NAN: "a"}),
        ("has NUL", "a\0b"),
        ("has NUL inside", {"a": ["\0"]}),
        ("has NUL in a key", {"a": {"\0": 1}}),
        ("has a lone surrogate inside", {"a": [LONE_SURROGATE]}),
        ("has a lone surrogate in a key", {LONE_SURROGATE: 1}),
        ("is nested too deep", nested(100)),
        ("is nested far too deep", nested(100_000)),
        ("contains itself", endless()),
        ("has an integer beyond all doubles", [10**400]),
    ),
    *_ones(
        "extensions",
        ("are no mapping", ["a"]),
        ("have an upper-case name", {"Trace": "a"}),
        ("have a name with a dash", {"trace-id": "a"}),
        ("have a name with an underscore", {"trace_id": "a"}),
        ("have an empty name", {"": "a"}),
        ("have a name outside ASCII", {"größe": "a"}),
        ("have a name with a line end", {"trace\n": "a"}),
        ("have a name that is too long", {"x" * 21: "a"}),
        ("have a name that is no text", {5: "a"}),
        ("have the name of an attribute", {"id": "a"}),
        ("have the name data", {"data": "a"}),
        ("have an object", {"a": object()}),
        ("have a float", {"a": 1.5}),
        ("have a decimal", {"a": Decimal("1.5")}),
        ("have a list", {"a": ["b"]}),
        ("have an integer over 32 bits", {"a": 2**31}),
        ("have NUL", {"a": "\0"}),
        ("have a lone surrogate", {"a": LONE_SURROGATE}),
        ("have a naive datetime", {"a": NAIVE}),
        ("have an empty partitionkey", {"partitionkey": ""}),
        ("have a partitionkey that is no text", {"partitionkey": 5}),
    ),
    (
        "partitionkey, as an extension, is too long",
        {"extensions": {"partitionkey": "x" * 256}},
        "partition_key",
    ),
    (
        "partition_key differs from the extension",
        {"partition_key": "a", "extensions": {"partitionkey": "b"}},
        "partition_key",
    ),
    *_ones(
        "scheduled_at",
        ("is naive", NAIVE),
        ("is text", "2030-01-01T00:00:00Z"),
        ("is a date", date(2030, 1, 1)),
        ("is a number", 0),
        ("is a duration", timedelta(hours=1)),
        ("is after the year 9999 in UTC", JUST_BEFORE_THE_END_OF_TIME),
        ("is before the year 1 in UTC", datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))),
    ),
    *_ones(
        "max_retries",
        ("is negative", -1),
        ("is a bool", True),
        ("is missing", None),
        ("is text", "3"),
        ("is a float", 3.0),
        ("is over its column", MAX_RETRIES + 1),
        ("is huge", 10**30),
    ),
]
"""Every kind of invalid event: what is wrong, the arguments, and the field that is named."""

CONFIGS: list[tuple[str, Any]] = [
    ("has an unknown key", {"topic": "orders"}),
    ("has a key that is no text", {1: "orders"}),
    ("is a list", ["topic"]),
    ("is an empty list", []),
    ("is text", "topic"),
    ("is empty text", ""),
    ("is a number", 0),
    ("is False", False),
    ("has an object", {"topic": object()}),
    ("has NaN", {"topic": [NAN]}),
    ("has NUL", {"topic": "\0"}),
    ("has a lone surrogate", {"topic": LONE_SURROGATE}),
]
"""What no backend takes as `publisher_config`."""

BACKENDS: list[tuple[str, Any]] = [
    ("is unknown", "no-such-backend"),
    ("is in another case", "Default"),
    ("is empty", ""),
    ("has a lone surrogate", LONE_SURROGATE),
    ("is bytes", b"default"),
    ("is a number", 0),
    ("is a list", ["default"]),
    ("is a dictionary", {"default": 1}),
]
"""What names no backend."""

TOO_LARGE: list[tuple[str, dict[str, Any]]] = [
    ("an object", {"data": {"text": "x" * 1000}}),
    ("a string", {"data": "x" * 1000}),
    ("bytes", {"data": b"x" * 750}),
    ("characters of several bytes", {"data": "😀" * 250}),
    ("escapes", {"data": "\n" * 500}),
    ("extensions", {"extensions": {"a": "x" * 1000}}),
]
"""Events over a limit of 1,000 bytes, in all that their data or attributes may be."""


def publish(database: str, **changes: Any) -> OutboxEvent:
    """Publish a valid event with some arguments changed."""
    valid = {"event_type": "order.placed", "source": "/shop/orders", "data": {"id": 1}}
    return publisher.publish_event(**{**valid, "using": database, **changes})


@contextmanager
def refused(error: type[PublishError]) -> Iterator[pytest.ExceptionInfo[Any]]:
    """Expect this very class of error, and not one statement on any database."""
    with statements() as run, pytest.raises(error) as caught:
        yield caught
    assert caught.type is error
    assert run == []


@contextmanager
def order_commits(database: str) -> Iterator[None]:
    """A transaction with a change before the block and one behind; it commits, with an event."""
    with transaction.atomic(using=database):
        Order.objects.using(database).create(number="before")
        yield
        Order.objects.using(database).create(number="behind")
        publish(database)
    assert Order.objects.using(database).count() == 2
    assert OutboxEvent.objects.using(database).count() == 1


def limited(limit: int) -> override_settings:
    """Settings with one backend, which takes no more bytes."""
    backend = {"BACKEND": LOCMEM, "OPTIONS": {"max_message_bytes": limit}}
    return override_settings(OUTBOX_PUBLISHERS={"default": backend})


def table(rows: list[Any], names: str) -> Callable[..., Any]:
    """Parametrise a test by rows that begin with their description."""
    return pytest.mark.parametrize(
        names, [pytest.param(*row[1:], id=row[0].replace(" ", "-")) for row in rows]
    )


@table(INVALID, "arguments, field")
def test_invalid_event_is_refused(database: str, arguments: dict[str, Any], field: str) -> None:
    """It raises InvalidEvent with the field's name, and the transaction stays usable."""
    with order_commits(database), refused(InvalidEvent) as caught:
        publish(database, **arguments)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")


@table(CONFIGS, "config")
def test_invalid_publisher_config_is_refused(database: str, config: Any) -> None:
    """It raises InvalidPublisherConfig, and the transaction stays usable."""
    with order_commits(database), refused(InvalidPublisherConfig) as caught:
        publish(database, publisher_config=config)
    assert caught.value.field == "publisher_config"
    assert str(caught.value).startswith("publisher_config")


@table(BACKENDS, "backend")
def test_unknown_backend_is_refused(database: str, backend: Any) -> None:
    """It raises UnknownBackend that lists the known ones, and the transaction stays usable."""
    with order_commits(database), refused(UnknownBackend) as caught:
        publish(database, backend=backend)
    assert caught.value.alias == backend
    assert caught.value.known == ("default",)
    assert str(caught.value).startswith("backend: ")


@table(TOO_LARGE, "arguments")
def test_payload_over_the_limit_is_refused(database: str, arguments: dict[str, Any]) -> None:
    """It raises PayloadTooLarge with both sizes, and the transaction stays usable."""
    with order_commits(database), limited(1000), refused(PayloadTooLarge) as caught:
        publish(database, **arguments)
    assert caught.value.field == "data"
    assert caught.value.backend == "default"
    assert caught.value.limit == 1000
    assert caught.value.size > 1000


def test_limit_of_any_backend_of_a_route_counts(database: str) -> None:
    """An event for several backends is refused for all if one of them will never take it."""
    backends = {
        "wide": {"BACKEND": LOCMEM},
        "narrow": {"BACKEND": LOCMEM, "OPTIONS": {"max_message_bytes": 1000}},
    }
    routes = {"big.*": ["wide", "narrow"], "*": "wide"}
    routed = override_settings(OUTBOX_PUBLISHERS=backends, OUTBOX_ROUTES=routes)
    with order_commits(database), routed, refused(PayloadTooLarge) as caught:
        publish(database, event_type="big.event", data="x" * 1000)
    assert caught.value.backend == "narrow"


def as_delivered(event: OutboxEvent) -> bytes:
    """The message that a relay makes of the row, in the CloudEvents JSON format."""
    rows = RelayRows(str(event._state.db), event.publisher_backend, lease_id=0)
    [row] = [
        each for each in rows.fetch({event.partition}, event.pk, 1).rows if each.id == event.pk
    ]
    return message_of(row).to_json()


@pytest.mark.parametrize("key", [None, "key"])
@pytest.mark.parametrize(
    "data",
    [None, {"a": ["b,:", 'c\\"[1, 2]', "\n"], "e": 1, "f": {}}, "text: 1, 2", b"bytes"],
    ids=["no-data", "object", "string", "bytes"],
)
def test_payload_at_the_limit_is_accepted(database: str, data: Any, key: str | None) -> None:
    """The size that counts is that of the message which the backend receives."""
    event = {"data": data, "partition_key": key, "event_id": "1", "time": NOON}
    with transaction.atomic(using=database):
        size = len(as_delivered(publish(database, **event)))
        transaction.set_rollback(True, using=database)
    with order_commits(database), limited(size - 1), refused(PayloadTooLarge) as caught:
        publish(database, **event)
    assert caught.value.size == size
    with limited(size):
        publish(database, **event)


# --- The transaction -----------------------------------------------------------------------------


@pytest.fixture
def elsewhere(database: str) -> str:
    """The alias of another database."""
    others = [alias for alias in DATABASES if alias != database]
    return others[0] if others else pytest.skip("needs two databases")


def test_transaction_on_another_database_only_is_refused(database: str, elsewhere: str) -> None:
    """The event would not commit with the change, so it is an error that names both databases."""
    with order_commits(elsewhere), refused(WrongTransaction) as caught:
        publish(database)
    assert repr(database) in str(caught.value)
    assert repr(elsewhere) in str(caught.value)
    assert not OutboxEvent.objects.using(database).exists()


def test_transaction_on_both_databases_is_accepted(database: str, elsewhere: str) -> None:
    """A transaction on a second database is nobody's business while the right one is open."""
    with transaction.atomic(using=elsewhere), transaction.atomic(using=database):
        publish(database)
    assert OutboxEvent.objects.using(database).count() == 1


@override_settings(OUTBOX_REQUIRE_TRANSACTION=True)
def test_publishing_outside_of_a_transaction_can_be_forbidden(database: str) -> None:
    """With OUTBOX_REQUIRE_TRANSACTION it is an error, and inside of one it is none."""
    with refused(WrongTransaction) as caught:
        publish(database)
    assert "OUTBOX_REQUIRE_TRANSACTION" in str(caught.value)
    with order_commits(database):
        pass


@override_settings(OUTBOX_REQUIRE_TRANSACTION=True)
def test_transaction_without_autocommit_counts_as_one(database: str) -> None:
    """Code that switched autocommit off is inside of a transaction, and its event goes with it."""
    transaction.set_autocommit(False, using=database)
    try:
        publish(database)
        transaction.rollback(using=database)
        assert not OutboxEvent.objects.using(database).exists()
        publish(database)
        transaction.commit(using=database)
    finally:
        transaction.rollback(using=database)
        transaction.set_autocommit(True, using=database)
    assert OutboxEvent.objects.using(database).count() == 1


def test_unknown_database_is_refused(database: str) -> None:
    """An alias that DATABASES does not have is Django's own error, and runs no SQL."""
    with order_commits(database):
        with statements() as run, pytest.raises(ConnectionDoesNotExist, match="no-such-database"):
            publish("no-such-database")
        assert run == []


# --- Events as a whole ---------------------------------------------------------------------------


def test_long_extension_name_is_refused_in_a_new_event_alone(database: str) -> None:
    """A name over 20 characters can be forwarded, as brokers use such names, and not made up."""
    long = {"x" * 21: "a"}
    received = {"specversion": "1.0", "id": "1", "type": "t", "source": "s", **long}
    with order_commits(database), refused(InvalidEvent) as caught:
        publisher.publish_event("t", "s", extensions=long, using=database)
    assert caught.value.field == "extensions"
    assert next(iter(long)) in str(caught.value)
    event = publisher.publish_cloud_event(CloudEvent.from_dict(received), using=database)
    assert event.extensions == long


def test_event_of_the_sdk_that_breaks_the_specification_is_refused(database: str) -> None:
    """The SDK lets more through than the specification: InvalidEvent names the field."""
    try:
        from cloudevents.v1.http import CloudEvent as SdkEvent
    except ImportError:
        from cloudevents.http import CloudEvent as SdkEvent
    event = SdkEvent({"type": "order.placed", "source": "user service", "id": "1"}, {})
    with order_commits(database), refused(InvalidEvent) as caught:
        publisher.publish_cloud_event(event, using=database)
    assert caught.value.field == "source"


@pytest.mark.parametrize("event", [None, {"type": "order.placed"}, "order.placed", OutboxEvent])
def test_object_that_is_no_event_is_refused(database: str, event: Any) -> None:
    """It raises TypeError that says what is expected, and runs no SQL."""
    with order_commits(database):
        with statements() as run, pytest.raises(TypeError, match="expected a django_broadcaster"):
            publisher.publish_cloud_event(event, using=database)
        assert run == []


def test_arguments_of_a_cloud_event_are_checked_too(database: str) -> None:
    """What is not part of the event is refused as it is by publish_event."""
    event = CloudEvent(event_type="order.placed", source="/shop")
    for field, value in {
        "max_retries": -1,
        "scheduled_at": NAIVE,
        "partition_key": "",
    }.items():
        with refused(InvalidEvent) as caught:
            publisher.publish_cloud_event(event, using=database, **{field: value})
        assert caught.value.field == field
    with refused(UnknownBackend):
        publisher.publish_cloud_event(event, "no-such-backend", using=database)
    with refused(InvalidPublisherConfig):
        publisher.publish_cloud_event(event, publisher_config={"a": 1}, using=database)


# --- Limits of one database ----------------------------------------------------------------------


def test_depth_that_the_database_cannot_hold_is_refused(database: str) -> None:
    """Data at the database's limit is stored, and data over it refused: MariaDB holds 31 levels."""
    connection = connections[database]
    mariadb = connection.vendor == "mysql" and connection.mysql_is_mariadb
    limit = 31 if mariadb else MAX_DEPTH
    publish(database, data=nested(limit))
    assert OutboxEvent.objects.using(database).get().data == nested(limit)
    OutboxEvent.objects.using(database).all().delete()
    with order_commits(database), refused(InvalidEvent) as caught:
        publish(database, data={"a": nested(limit)})
    assert caught.value.field == "data"
    assert str(limit) in str(caught.value)


@pytest.mark.parametrize(
    "moment",
    [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(1000, 1, 1, tzinfo=timezone(timedelta(hours=14))),
        datetime.max.replace(tzinfo=UTC),
    ],
    ids=["first", "medieval", "last"],
)
def test_extreme_moments_are_stored(database: str, moment: datetime) -> None:
    """Every moment of the years 1 to 9999 comes back as it was."""
    event = publish(database, time=moment, scheduled_at=moment)
    row = OutboxEvent.objects.using(database).get()
    assert (event.time, event.scheduled_at) == (row.time, row.scheduled_at) == (moment, moment)


@pytest.mark.parametrize("using", [5, b"default", SimpleLazyObject(lambda: 5)])
def test_database_that_is_no_text_is_refused(using: Any) -> None:
    """What is no alias at all names the argument, too."""
    with refused(InvalidEvent) as caught:
        publish(using)
    assert caught.value.field == "using"
