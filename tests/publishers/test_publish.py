"""What a publish call writes, when, and where."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from importlib import import_module
from typing import Any
from uuid import UUID
from zlib import crc32

import pytest
from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.db import DatabaseError, connections, models, transaction
from django.test import override_settings
from django.utils import timezone as django_timezone
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings

from django_broadcaster.events import JSON_NULL, CloudEvent
from django_broadcaster.exceptions import UnknownBackend, WrongTransaction
from django_broadcaster.models import OutboxEvent, OutboxEventStatus
from django_broadcaster.publishers import OutboxPublisher, publisher
from django_broadcaster.relay.row_to_message import message_of
from django_broadcaster.signals import event_created
from django_broadcaster.store import RelayRows
from tests.app.models import Order
from tests.events.strategies import EVENTS
from tests.support.waiting import wait_until

from .statements import statements
from .threads import threads, waits_for_lock

LOCMEM = {"BACKEND": "django_broadcaster.backends.LocMemBackend"}
NOON = datetime(2030, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
SECONDS = 20.0

MYSQL = [alias for alias, entry in settings.DATABASES.items() if entry["ENGINE"].endswith("mysql")]


class Undo(Exception):
    """Ends a transaction with a rollback."""


@contextmanager
def undone(database: str) -> Iterator[None]:
    """A transaction or savepoint that fails at its end, as by an exception of the application."""
    with suppress(Undo), transaction.atomic(using=database):
        yield
        raise Undo


def publish(database: str, **changes: Any) -> OutboxEvent:
    """Publish a small event with some arguments changed."""
    given = {"event_type": "order.placed", "source": "/shop/orders", "data": {"id": 1}}
    return publisher.publish_event(**{**given, "using": database, **changes})


def place_order(database: str, number: str = "1", **changes: Any) -> OutboxEvent:
    """Make a change and publish an event about it."""
    Order.objects.using(database).create(number=number)
    return publish(database, **{"subject": number, **changes})


def outbox(database: str) -> models.QuerySet[OutboxEvent]:
    """The rows of the outbox, in order."""
    return OutboxEvent.objects.using(database).order_by("id")


def orders_and_events(database: str) -> tuple[list[str], list[str]]:
    """The orders that there are, and those that there are events about."""
    orders = Order.objects.using(database).order_by("id").values_list("number", flat=True)
    return list(orders), list(outbox(database).values_list("subject", flat=True))


def columns(event: OutboxEvent) -> dict[str, Any]:
    """Every column of a row, binary data as bytes."""
    values = {field.attname: getattr(event, field.attname) for field in event._meta.fields}
    binary = values["data_binary"]
    return {**values, "data_binary": None if binary is None else bytes(binary)}


def exact(data: Any) -> str:
    """Text that is equal only if the types are, too: to Python, 1, 1.0 and True are equal."""
    return json.dumps(data, sort_keys=True)


def backends(*aliases: str, **routes: Any) -> override_settings:
    """Settings with these backends, and with routes by event type."""
    return override_settings(
        OUTBOX_PUBLISHERS=dict.fromkeys(aliases, LOCMEM), OUTBOX_ROUTES=routes.get("routes", {})
    )


@contextmanager
def failing_insert(database: str, number: int) -> Iterator[None]:
    """Let the INSERT of that number fail as if the database had refused it."""
    left = [number]

    def fail(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        left[0] -= sql.startswith("INSERT")
        if left[0] == 0 and sql.startswith("INSERT"):
            raise DatabaseError("the disk is full")
        return execute(sql, params, many, context)

    with connections[database].execute_wrapper(fail):
        yield


# --- Atomic --------------------------------------------------------------------------------------


def test_event_commits_with_the_change(database: str) -> None:
    """Other connections see the event when the transaction commits, and not before."""

    def seen() -> tuple[list[str], list[str]]:
        return orders_and_events(database)

    with threads(1) as start:
        with transaction.atomic(using=database):
            place_order(database)
            assert start(seen).result(SECONDS) == ([], [])
        assert start(seen).result(SECONDS) == (["1"], ["1"])


def test_event_is_rolled_back_with_the_change(database: str) -> None:
    """A transaction that fails leaves no event behind."""
    with undone(database):
        place_order(database)
    assert orders_and_events(database) == ([], [])


def test_event_is_rolled_back_with_its_savepoint(database: str) -> None:
    """Of a transaction with savepoints the events of those stay that were not rolled back."""
    with transaction.atomic(using=database):
        place_order(database, "1")
        with undone(database):
            place_order(database, "2")
        with transaction.atomic(using=database):
            place_order(database, "3")
            with undone(database):
                place_order(database, "4")
                with transaction.atomic(using=database):
                    place_order(database, "5")
    assert orders_and_events(database) == (["1", "3"], ["1", "3"])


def test_released_savepoint_is_rolled_back_with_its_transaction(database: str) -> None:
    """An event of a savepoint that succeeded goes when the transaction around it fails."""
    with undone(database), transaction.atomic(using=database):
        place_order(database)
    assert orders_and_events(database) == ([], [])


def test_event_outside_of_a_transaction_is_there_at_once(database: str) -> None:
    """Publishing needs no transaction, unless a setting says so."""
    publish(database, subject="1")
    with threads(1) as start:
        found = start(lambda: [event.subject for event in outbox(database)])
        assert found.result(SECONDS) == ["1"]


def test_database_error_of_the_insert_reaches_the_caller(database: str) -> None:
    """Without the outbox's row the change must not commit: what the database raises is raised."""

    @transaction.atomic(using=database)
    def order() -> None:
        Order.objects.using(database).create(number="1")
        with failing_insert(database, 1):
            publish(database)

    with pytest.raises(DatabaseError, match="disk is full"):
        order()
    assert orders_and_events(database) == ([], [])


# --- What is returned ----------------------------------------------------------------------------

DATA: dict[str, Any] = {
    "none": None,
    "dict": {"id": 1, "lines": [{"sku": "a", "price": 1.5}, {}], "paid": False, "note": None},
    "empty-dict": {},
    "list": [1, "two", [3.0, True], None],
    "empty-list": [],
    "tuple": (1, (2,)),
    "string": "text",
    "empty-string": "",
    "json-string": '{"a": [1, "%s", "%(b)s", "\\"]}',
    "zero": 0,
    "integer": -5,
    "long-integers": [2**53 + 1, 2**63, 2**64, 2**70, -(10**300)],
    "float": 0.1,
    "floats": [1.0, -2.5e-7, 1.7976931348623157, 5e-324, 123456789.12345679],
    "true": True,
    "false": False,
    "bytes": b"\x00\xff\xfe'\"\\%s",
    "empty-bytes": b"",
    "bytearray": bytearray(b"\x00\xff"),
    "memoryview": memoryview(b"\x00\xff"),
    "datetime": datetime(2030, 1, 1, 12, tzinfo=UTC),
    "moments": [NOON, date(2030, 1, 1), timedelta(days=1, seconds=2), datetime(2030, 1, 1)],  # noqa: DTZ001
    "decimal": Decimal("1.10"),
    "uuid": {"id": UUID(int=5)},
    "lazy-string": lazystr("lazy"),
    "lazy-strings-inside": {"a": [lazystr("lazy")]},
    "safe-string": mark_safe("<b>"),
    "unicode": {"größe": "ключ 值 \u202eשלום\u200d\ufeff\u2028"},
    "astral": {"😀": "🀄 👩‍👩‍👧‍👦 \U0010fffd"},
    "escapes": "\x01\x1f\x7f\b\f\n\r\t\\ \" ' / </script>",
    "keys": {1: "one", False: "no", None: "none", 1.5: "float"},
    "large": {"text": "ä" * 500_000, "numbers": list(range(50_000))},
}
"""Every kind of data."""


def as_json(data: Any) -> Any:
    """Data as its reader finds it."""
    return json.loads(json.dumps(data, cls=DjangoJSONEncoder))


@pytest.mark.parametrize("name", DATA)
def test_returned_event_equals_its_row(database: str, name: str) -> None:
    """The instance is what the database holds, column by column, for every kind of data."""
    data = DATA[name]
    with transaction.atomic(using=database):
        event = publish(database, data=data)
    row = outbox(database).get()
    assert columns(event) == columns(row)
    assert event.cloud_event == row.cloud_event
    if isinstance(data, bytes | bytearray | memoryview):
        assert (event.data, bytes(event.data_binary or b"")) == (None, bytes(data))
        assert event.data_content_type == "application/octet-stream"
    else:
        assert exact(event.data) == exact(row.data) == exact(as_json(data))
        assert event.data_binary is None
        assert event.data_content_type == ("" if data is None else "application/json")
    assert row.cloud_event.has_data is (data is not None)


def test_returned_event_is_a_saved_instance(database: str) -> None:
    """The instance knows its database and its position, and can be read again and saved."""
    event = publish(database)
    assert event == outbox(database).get()
    assert (event._state.db, event._state.adding) == (database, False)
    before = columns(event)
    event.refresh_from_db()
    assert columns(event) == before
    event.save()
    assert outbox(database).count() == 1


def test_positions_grow_in_publish_order(database: str) -> None:
    """The ids of a transaction's events grow, so that they order a key."""
    with transaction.atomic(using=database):
        ids = [publish(database).pk for _ in range(5)]
    assert ids == sorted(set(ids))
    assert [event.pk for event in outbox(database)] == ids


def test_defaults(database: str) -> None:
    """An event of the two required arguments is due now, with a UUIDv7 and three retries."""
    before = django_timezone.now()
    event = publisher.publish_event("order.placed", "/shop/orders", using=database)
    after = django_timezone.now()
    values = columns(outbox(database).get())
    assert UUID(values["event_id"]).version == 7
    assert before <= values["time"] <= values["created_at"] == values["scheduled_at"] <= after
    expected = {
        "event_type": "order.placed",
        "source": "/shop/orders",
        "subject": "",
        "data_content_type": "",
        "data_schema": "",
        "extensions": {},
        "data": None,
        "data_binary": None,
        "identity": None,
        "partition_key": "",
        "publisher_backend": "default",
        "publisher_config": {},
        "status": "pending",
        "published_at": None,
        "retry_count": 0,
        "max_retries": 3,
        "crash_count": 0,
        "last_error": "",
    }
    assert {name: values[name] for name in expected} == expected
    assert event.status is OutboxEventStatus.PENDING


def test_every_argument_is_stored(database: str) -> None:
    """What is given by position and by keyword stands in the row and in the event."""
    event = publisher.publish_event(
        "order.placed",
        "https://example.com/shop",
        {"id": 1},
        "order 1",
        "default",
        NOON,
        0,
        {},
        event_id="id-1",
        time=NOON - timedelta(days=1),
        partition_key="order-1",
        extensions={"traceparent": "00-ab", "sampled": True, "count": 5, "raw": b"\x00"},
        data_content_type="application/vnd.shop+json",
        data_schema="https://example.com/schema.json#order",
        using=database,
    )
    row = outbox(database).get()
    assert columns(event) == columns(row)
    assert (row.scheduled_at, row.max_retries, row.publisher_config) == (NOON, 0, {})
    assert row.cloud_event == CloudEvent(
        event_type="order.placed",
        source="https://example.com/shop",
        id="id-1",
        data={"id": 1},
        subject="order 1",
        time=NOON - timedelta(days=1),
        data_content_type="application/vnd.shop+json",
        data_schema="https://example.com/schema.json#order",
        extensions={
            "traceparent": "00-ab",
            "sampled": True,
            "count": 5,
            "raw": "AA==",
            "partitionkey": "order-1",
        },
    )


def test_longest_values_fit_in_every_alphabet(database: str) -> None:
    """Columns count characters: the longest values are stored, also of four bytes each."""
    longest = {
        "event_type": "😀" * 255,
        "source": "/" + "x" * 511,
        "subject": "😀" * 512,
        "event_id": "😀" * 255,
        "partition_key": "😀" * 255,
        "data_content_type": "text/" + "x" * 250,
        "data_schema": "https://example.com/" + "x" * 1980,
        "data": "text",
        "max_retries": 32_767,
    }
    event = publish(database, **longest)
    row = outbox(database).get()
    assert columns(event) == columns(row)
    assert {name: getattr(row, name) for name in longest} == longest


@pytest.mark.parametrize(
    "text", ["Straße", "STRASSE", "a", "A", "a ", "á", "😀", "👩‍👩‍👧‍👦", "%s", "';--"]
)
def test_text_comes_back_as_it_was(database: str, text: str) -> None:
    """Attributes keep their case, accents, spaces and characters outside the BMP."""
    names = ("event_type", "subject", "event_id", "partition_key")
    event = publish(database, extensions={"a": text}, **dict.fromkeys(names, text))
    row = outbox(database).get()
    assert columns(event) == columns(row)
    assert {getattr(row, name) for name in names} | set(row.extensions.values()) == {text}


class OrderEvent(models.TextChoices):
    """Names as many applications keep them."""

    PLACED = "order.placed"


class Alias(models.TextChoices):
    """Aliases of backends."""

    MAIN = "default"


def test_members_of_enums_are_stored_as_their_values(database: str) -> None:
    """A TextChoices member is the text that it stands for, also where drivers know enums."""
    publish(database, event_type=OrderEvent.PLACED, backend=Alias.MAIN, event_id="1")
    row = outbox(database).get()
    assert (row.event_type, row.publisher_backend) == ("order.placed", "default")


def test_later_changes_of_the_arguments_change_nothing(database: str) -> None:
    """The event is what it was at the call, in the database and in the returned instance."""
    data, extensions = {"lines": [1]}, {"a": "b"}
    event = publish(database, data=data, extensions=extensions)
    data["lines"].append(2)
    extensions["a"] = "c"
    for each in (event, outbox(database).get()):
        assert (each.data, each.extensions) == ({"lines": [1]}, {"a": "b"})


# --- Events as a whole ---------------------------------------------------------------------------


def rounded(value: Any) -> Any:
    """JSON with numbers as most readers take them: PostgreSQL writes 1e+16 without exponent."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(value) if isinstance(value, int | float) else value


@hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(event=EVENTS)
def test_any_event_comes_back_as_it_was(database: str, event: CloudEvent) -> None:
    """The row of a CloudEvent, and the message made of it, are that CloudEvent."""
    outbox(database).delete()  # of the example before, which may have had the same id
    returned = publisher.publish_cloud_event(event, using=database)
    row = outbox(database).get(pk=returned.pk)
    read = RelayRows(database, "default", 0).fetch({row.partition}, row.pk, 1).rows
    for each in (returned.cloud_event, row.cloud_event, message_of(read[0]).event):
        assert rounded(each.data) == rounded(event.data)
        assert each.has_data is event.has_data
        assert each.replace(data=None, data_content_type=None) == event.replace(
            data=None, data_content_type=None
        )
        assert each.data_content_type == event.data_content_type
        assert exact(dict(each.extensions)) == exact(dict(event.extensions))


@pytest.mark.parametrize(
    "event",
    [
        CloudEvent(event_type="t", source="s"),
        CloudEvent(event_type="t", source="s", time=None, data=JSON_NULL),
        CloudEvent(event_type="t", source="s", data=b"\x00", data_content_type="image/png"),
        CloudEvent(event_type="t", source="s", data="<a/>", data_content_type="application/xml"),
        CloudEvent(event_type="t", source="s", data_content_type="text/plain"),
        CloudEvent(event_type="t", source="s", extensions={"partitionkey": "k", "a": "b", "n": -5}),
    ],
    ids=["least", "null", "binary", "text", "no-data", "extensions"],
)
def test_publish_cloud_event_keeps_every_attribute(database: str, event: CloudEvent) -> None:
    """Id, time or none, content type, data or none and extensions are those of the event."""
    returned = publisher.publish_cloud_event(event, using=database)
    row = outbox(database).get()
    assert columns(returned) == columns(row)
    assert row.cloud_event == event
    assert row.cloud_event.has_data is event.has_data


def sdk_v1(name: str, attributes: dict[str, Any], data: Any) -> Any:
    """An event of the SDK's first API; its 1.x moved to `v1` in 2.x."""
    try:
        module = import_module(f"cloudevents.v1.{name}")
    except ImportError:
        module = import_module(f"cloudevents.{name}")
    return module.CloudEvent(attributes, data)


def sdk_v2(attributes: dict[str, Any], data: Any) -> Any:
    """An event of the SDK's version 2, which takes datetimes only."""
    module = pytest.importorskip("cloudevents.core.v1.event")
    return module.CloudEvent({**attributes, "time": NOON}, data)


SDKS = {
    "http": lambda attributes, data: sdk_v1("http", attributes, data),
    "pydantic": lambda attributes, data: sdk_v1("pydantic", attributes, data),
    "v2": sdk_v2,
}


@pytest.mark.parametrize("api", SDKS)
@pytest.mark.parametrize(
    ("data", "content_type"),
    [({"id": [1, None]}, "application/json"), (b"\x00\xff", "image/png"), (None, "text/plain")],
    ids=["json", "binary", "no-data"],
)
def test_publish_cloud_event_takes_the_events_of_the_sdk(
    database: str, api: str, data: Any, content_type: str
) -> None:
    """Every attribute of the official SDK's events is kept, its partitionkey as the key."""
    attributes = {
        "type": "order.placed",
        "source": "https://example.com/shop",
        "id": "B234",
        "time": NOON.isoformat(),
        "subject": "123",
        "datacontenttype": content_type,
        "dataschema": "https://example.com/schema",
        "partitionkey": "key",
        "number": 5,
    }
    returned = publisher.publish_cloud_event(SDKS[api](attributes, data), using=database)
    row = outbox(database).get()
    assert columns(returned) == columns(row)
    assert row.partition_key == "key"
    members = row.to_cloud_event()
    assert datetime.fromisoformat(members.pop("time")) == NOON
    expected = {**attributes, "specversion": "1.0"}
    del expected["time"]
    if data is not None:
        expected["data_base64" if isinstance(data, bytes) else "data"] = (
            "AP8=" if isinstance(data, bytes) else data
        )
    assert members == expected


def test_publish_cloud_event_takes_the_arguments_of_delivery(database: str) -> None:
    """Backend, time of delivery, retries and key are given by position and keyword."""
    event = CloudEvent(event_type="t", source="s")
    with backends("default", "other"):
        publisher.publish_cloud_event(
            event, "other", NOON, 5, {}, partition_key="key", using=database
        )
    row = outbox(database).get()
    assert (row.publisher_backend, row.scheduled_at, row.max_retries) == ("other", NOON, 5)
    assert (row.status, row.partition_key) == ("scheduled", "key")


# --- Scheduled -----------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=9))], ids=["utc", "tokyo"])
def test_event_in_the_future_is_scheduled(database: str, zone: timezone) -> None:
    """An event for later waits in status scheduled, for that very moment."""
    moment = (django_timezone.now() + timedelta(hours=1)).astimezone(zone)
    event = publish(database, scheduled_at=moment)
    row = outbox(database).get()
    assert columns(event) == columns(row)
    assert (row.status, row.scheduled_at) == ("scheduled", moment)
    assert row.scheduled_at > row.created_at


def test_event_in_the_past_is_due_now(database: str) -> None:
    """An event for a moment that has gone is pending, and remembers the moment."""
    moment = django_timezone.now() - timedelta(hours=1)
    event = publish(database, scheduled_at=moment)
    row = outbox(database).get()
    assert columns(event) == columns(row)
    assert (row.status, row.scheduled_at) == ("pending", moment)


# --- Once per identity ---------------------------------------------------------------------------


def test_same_identity_writes_one_row_and_returns_it(database: str) -> None:
    """A second publish in the transaction returns the first's row, and the transaction goes on."""
    with transaction.atomic(using=database):
        first = place_order(database, "1", event_id="id", data={"n": 1}, partition_key="a")
        second = place_order(database, "2", event_id="id", data={"n": 2}, max_retries=9)
        Order.objects.using(database).create(number="3")
    assert columns(second) == columns(first) == columns(outbox(database).get())
    assert orders_and_events(database) == (["1", "2", "3"], ["1"])


def test_same_identity_after_the_commit_returns_the_row_as_it_is_by_then(database: str) -> None:
    """A later publish returns the row with what has become of it, also outside of transactions."""
    first = publish(database, event_id="id")
    outbox(database).update(status=OutboxEventStatus.PUBLISHED, published_at=NOON)
    with transaction.atomic(using=database):
        inside = publish(database, event_id="id")
    outside = publish(database, event_id="id")
    assert inside == outside == first
    assert columns(inside) == columns(outside) == columns(outbox(database).get())
    assert (outside.status, outside.published_at) == ("published", NOON)


def test_same_cloud_event_writes_one_row(database: str) -> None:
    """A CloudEvent has its identity from its maker, so it is published once."""
    event = CloudEvent(event_type="t", source="s", data=1)
    first = publisher.publish_cloud_event(event, using=database)
    second = publisher.publish_cloud_event(event.replace(data=2), using=database)
    third = publish(database, event_id=event.id, source="s")
    assert columns(first) == columns(second) == columns(third) == columns(outbox(database).get())


def test_other_identities_are_other_events(database: str) -> None:
    """Source, id and backend make the identity, in their exact case and apart from each other."""
    identities = [
        ("s", "id", "one"),
        ("s", "ID", "one"),
        ("s", "id ", "one"),
        ("S", "id", "one"),
        ("s", "id", "two"),
        ("si", "d", "one"),
    ]
    with backends("one", "two"), transaction.atomic(using=database):
        for source, event_id, backend in identities:
            publish(database, source=source, event_id=event_id, backend=backend)
    names = ("source", "event_id", "publisher_backend")
    assert list(outbox(database).values_list(*names)) == identities


def test_generated_ids_stay_out_of_the_index_of_identities(database: str) -> None:
    """Only an id that the caller gave costs an entry in the unique index."""
    assert publish(database).identity is None
    assert publish(database, event_id="id").identity is not None
    assert outbox(database).filter(identity=None).count() == 1


def test_identity_that_was_rolled_back_can_be_published(database: str) -> None:
    """A rolled-back savepoint frees the identity, within the same transaction too."""
    with transaction.atomic(using=database):
        with undone(database):
            publish(database, event_id="id", data=1)
        event = publish(database, event_id="id", data=2)
    assert columns(event) == columns(outbox(database).get())
    assert event.data == 2


@pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])
def test_same_identity_from_two_transactions_at_once(database: str, commits: bool) -> None:
    """The second waits for the first: it returns the first's row, or writes its own."""
    begun = threading.Event()

    def second() -> tuple[OutboxEvent, OutboxEvent]:
        begun.set()
        with transaction.atomic(using=database):
            event = place_order(database, "2", event_id="id", data={"n": 2})
            row = outbox(database).get()
            place_order(database, "3")
        return event, row

    with threads(1) as start:
        with transaction.atomic(using=database):
            first = place_order(database, "1", event_id="id", data={"n": 1})
            other = start(second)
            assert begun.wait(SECONDS)
            wait_until(lambda: waits_for_lock(database), SECONDS, "the second waits")
            transaction.set_rollback(not commits, using=database)
        event, row = other.result(SECONDS)
    assert columns(event) == columns(row) == columns(outbox(database)[0])
    assert event.data == {"n": 1 if commits else 2}
    if commits:
        assert columns(event) == columns(first)
        assert orders_and_events(database) == (["1", "2", "3"], ["1", "3"])
    else:
        assert orders_and_events(database) == (["2", "3"], ["2", "3"])


def test_same_identity_from_many_transactions_at_once(database: str) -> None:
    """Of many writers of one event one writes, all return its row, and all commit."""
    count = 8
    together = threading.Barrier(count)

    def write(number: int) -> dict[str, Any]:
        together.wait(SECONDS)
        with transaction.atomic(using=database):
            return columns(place_order(database, str(number), event_id="id"))

    with threads(count) as start:
        running = [start(lambda number=number: write(number)) for number in range(count)]
        returned = [each.result(SECONDS) for each in running]
    row = columns(outbox(database).get())
    assert all(each == row for each in returned)
    assert Order.objects.using(database).count() == count


@contextmanager
def deleted_before_it_is_read(database: str, times: int) -> Iterator[None]:
    """Let another session delete the outbox each time that a publish call looks for a row."""
    left = [times]

    def delete(
        execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]
    ) -> Any:
        if sql.startswith("SELECT") and "identity" in sql and left[0]:
            left[0] -= 1
            with closing(connections[database].copy()) as other, other.cursor() as cursor:
                cursor.execute("DELETE FROM django_broadcaster_outboxevent")
        return execute(sql, params, many, context)

    with connections[database].execute_wrapper(delete):
        yield


@pytest.mark.parametrize("inside", [True, False], ids=["transaction", "autocommit"])
def test_same_identity_as_a_row_that_is_being_deleted(database: str, inside: bool) -> None:
    """RETENTION zero may delete the row between the two statements: the event is written then."""
    if inside and connections[database].vendor != "postgresql":
        pytest.skip("the one locks the row, the other all of the database")
    first = publish(database, event_id="id", data=1)
    block = transaction.atomic(using=database) if inside else nullcontext()
    with deleted_before_it_is_read(database, 1), block:
        second = publish(database, event_id="id", data=2)
    assert second.pk != first.pk
    assert columns(second) == columns(outbox(database).get())
    assert second.data == 2


@pytest.mark.parametrize("database", MYSQL, indirect=True)
def test_same_identity_behind_a_snapshot(database: str) -> None:
    """With repeatable reads, a row that committed after the snapshot is returned all the same."""
    with connections[database].cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    with threads(1) as start, transaction.atomic(using=database):
        assert not outbox(database).exists()
        first = start(lambda: publish(database, event_id="id", data=1)).result(SECONDS)
        assert not outbox(database).exists()
        second = place_order(database, event_id="id", data=2)
    assert columns(second) == columns(first) == columns(outbox(database).get())


# --- Routes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event_type", "aliases"),
    [
        ("order.placed", ["one"]),
        ("order.paid", ["two", "one"]),
        ("order.paid.late", ["three"]),
        ("Order.placed", ["default"]),
        ("reorder.placed", ["default"]),
        ("invoice.a", ["two"]),
        ("invoice.ab", ["default"]),
    ],
)
def test_first_pattern_that_matches_decides(
    database: str, event_type: str, aliases: list[str]
) -> None:
    """Patterns match the whole type in its exact case, in their order; else it is the default."""
    routes = {
        "order.placed": "one",
        "order.paid": ["two", "one"],
        "order.*": ("three",),
        "invoice.?": "two",
    }
    with backends("one", "two", "three", "default", routes=routes):
        event = publish(database, event_type=event_type)
    rows = list(outbox(database))
    assert [row.publisher_backend for row in rows] == aliases
    assert columns(event) == columns(rows[0])


@pytest.mark.parametrize("event_id", [None, "id"], ids=["generated-id", "given-id"])
def test_route_to_several_backends_writes_a_row_for_each(
    database: str, event_id: str | None
) -> None:
    """They are the same event, each with a delivery of its own; the first is returned."""
    routed = backends("one", "two", "three", routes={"*": ["two", "three", "one"]})
    with routed, transaction.atomic(using=database):
        event = place_order(database, event_id=event_id, partition_key="key")
    rows = list(outbox(database))
    assert [row.publisher_backend for row in rows] == ["two", "three", "one"]
    assert {row.event_id for row in rows} == {event.event_id}
    assert len({(row.partition, row.created_at, row.time) for row in rows}) == 1
    assert len({row.identity for row in rows}) == (3 if event_id else 1)
    assert len({row.cloud_event for row in rows}) == 1
    assert columns(event) == columns(rows[0])


def test_route_that_grew_writes_the_rows_that_lack(database: str) -> None:
    """An identity published again after a backend was added reaches that one only."""
    with backends("one", "two", routes={"*": ["one"]}):
        first = publish(database, event_id="id")
    with backends("one", "two", routes={"*": ["two", "one"]}):
        again = publish(database, event_id="id")
    assert [row.publisher_backend for row in outbox(database)] == ["one", "two"]
    assert again.publisher_backend == "two"
    assert again.event_id == first.event_id


def test_named_backend_goes_before_routes(database: str) -> None:
    """A backend in the call is the only one, whatever the routes say."""
    with backends("one", "two", "default", routes={"*": ["two", "default"]}):
        publish(database, backend="one")
    assert outbox(database).get().publisher_backend == "one"


@pytest.mark.parametrize(
    ("aliases", "chosen"), [(["other", "default"], "default"), (["only"], "only")]
)
def test_default_backend_is_taken_without_a_route(
    database: str, aliases: list[str], chosen: str
) -> None:
    """Without a route it is the alias `default`, else the first one."""
    with backends(*aliases, routes={"no.such.*": "other"}):
        assert publish(database).publisher_backend == chosen


@pytest.mark.parametrize("routes", [{"*": "gone"}, {"*": ["one", "gone"]}])
def test_no_backend_is_an_error(database: str, routes: Mapping[str, Any]) -> None:
    """With a route that leads nowhere, nothing is written."""
    with backends("one", "two", routes=routes), transaction.atomic(using=database):
        Order.objects.using(database).create(number="1")
        with statements() as run, pytest.raises(UnknownBackend) as caught:
            publish(database)
        assert run == []
    assert caught.value.known == ("one", "two")
    assert caught.value.alias == "gone"
    assert orders_and_events(database) == (["1"], [])


def test_fan_out_outside_of_a_transaction_is_all_or_nothing(database: str) -> None:
    """Where one row of several cannot be written, none is."""
    with backends("one", "two", "three", routes={"*": ["one", "two", "three"]}):
        with failing_insert(database, 3), pytest.raises(DatabaseError, match="disk is full"):
            publish(database)
        assert not outbox(database).exists()
        publish(database)
    assert outbox(database).count() == 3


def test_fan_out_inside_of_a_transaction_cannot_commit_in_part(database: str) -> None:
    """Where one row of several cannot be written, the caller's transaction must roll back."""
    routed = backends("one", "two", routes={"*": ["one", "two"]})
    with routed, transaction.atomic(using=database):
        Order.objects.using(database).create(number="1")
        with failing_insert(database, 2), pytest.raises(DatabaseError, match="disk is full"):
            publish(database)
        with pytest.raises(transaction.TransactionManagementError):
            Order.objects.using(database).create(number="2")
    assert orders_and_events(database) == ([], [])


# --- Databases -----------------------------------------------------------------------------------


@dataclass
class Router:
    """Sends the rows of the outbox to one database, and leaves all others alone."""

    alias: str

    def db_for_write(self, model: type[models.Model], **hints: Any) -> str | None:
        """The database of the outbox; none for another model."""
        return self.alias if model is OutboxEvent else None

    db_for_read = db_for_write


def test_event_goes_where_the_router_writes(database: str) -> None:
    """Without `using` the database is that to which the router sends OutboxEvent."""
    routed = override_settings(DATABASE_ROUTERS=[Router(database)])
    with routed, transaction.atomic(using=database):
        event = publisher.publish_event("order.placed", "/shop")
    assert event._state.db == database
    assert [outbox(alias).count() for alias in settings.DATABASES if alias != database] == [
        0 for alias in settings.DATABASES if alias != database
    ]
    assert columns(event) == columns(outbox(database).get())


def test_named_database_goes_before_the_router(database: str) -> None:
    """`using` is the last word."""
    for other in settings.DATABASES:
        with override_settings(DATABASE_ROUTERS=[Router(other)]):
            publish(database)
    assert outbox(database).count() == len(settings.DATABASES)


def test_router_to_another_database_than_the_transaction_is_an_error(database: str) -> None:
    """A change here and an outbox there cannot commit together, and the call says so."""
    others = [alias for alias in settings.DATABASES if alias != database]
    if not others:
        pytest.skip("needs two databases")
    routed = override_settings(DATABASE_ROUTERS=[Router(others[0])])
    with routed, transaction.atomic(using=database):
        Order.objects.using(database).create(number="1")
        with pytest.raises(WrongTransaction, match=f"database '{others[0]}'"):
            publisher.publish_event("order.placed", "/shop")
    assert orders_and_events(database) == (["1"], [])


# --- Keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"partition_key": "key"},
        {"extensions": {"partitionkey": "key"}},
        {"partition_key": "key", "extensions": {"partitionkey": "key"}},
        {"partition_key": mark_safe("key")},
    ],
    ids=["argument", "extension", "both", "safe-string"],
)
def test_partition_key_is_a_column_and_an_attribute(
    database: str, arguments: dict[str, Any]
) -> None:
    """Given either way, it stands in its column alone, and travels as `partitionkey`."""
    event = publish(database, **arguments)
    row = outbox(database).get()
    assert columns(event) == columns(row)
    assert (row.partition_key, row.extensions) == ("key", {})
    assert row.cloud_event.extensions == {"partitionkey": "key"}


@pytest.mark.parametrize("own", ["key", None])
def test_partition_key_of_a_cloud_event(database: str, own: str | None) -> None:
    """It is the event's own extension, or the argument where the event has none."""
    extensions = {"a": "b", "partitionkey": own}
    event = CloudEvent(event_type="t", source="s", extensions=extensions)
    publisher.publish_cloud_event(event, partition_key=None if own else "key", using=database)
    row = outbox(database).get()
    assert (row.partition_key, row.extensions) == ("key", {"a": "b"})


def test_event_without_a_key_has_no_attribute_of_it(database: str) -> None:
    """Without a key the attribute is absent, not empty."""
    publish(database)
    row = outbox(database).get()
    assert row.partition_key == ""
    assert "partitionkey" not in row.to_cloud_event()


@pytest.mark.parametrize("count", [1, 7, 64, 1024])
def test_events_of_a_key_share_a_partition(database: str, count: int) -> None:
    """The partition goes by the key, else by the event's id, and stays below their number."""
    with override_settings(OUTBOX_PARTITIONS=count), transaction.atomic(using=database):
        keyed = {publish(database, partition_key="ключ").partition for _ in range(5)}
        free = [publish(database) for _ in range(20)]
    assert keyed == {crc32("ключ".encode()) % count}
    assert all(event.partition == crc32(event.event_id.encode()) % count for event in free)
    assert max(event.partition for event in free) < count


# --- Cost ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"event_id": "id"},
        {"data": b"\x00"},
        {"partition_key": "key", "extensions": {"a": "b"}, "scheduled_at": NOON},
    ],
    ids=["generated-id", "given-id", "binary", "all"],
)
@pytest.mark.parametrize("inside", [True, False], ids=["transaction", "autocommit"])
@override_settings(OUTBOX_NOTIFY=False)
def test_publishing_is_one_insert(database: str, arguments: dict[str, Any], inside: bool) -> None:
    """A publish is one statement, without a savepoint and without reading the row back."""
    with transaction.atomic(using=database) if inside else statements():
        Order.objects.using(database).create(number="1")
        with statements() as run:
            publish(database, **arguments)
    assert len(run) == 1
    assert run[0].startswith("INSERT")


def test_publishing_to_several_backends_is_one_insert_each(database: str) -> None:
    """In an open transaction a fan-out adds no savepoint."""
    routed = backends("one", "two", "three", routes={"*": ["one", "two", "three"]})
    with routed, transaction.atomic(using=database):
        Order.objects.using(database).create(number="1")
        with statements() as run:
            publish(database)
    assert [sql.split()[0] for sql in run] == ["INSERT"] * 3


def test_publishing_again_reads_the_row_in_one_statement(database: str) -> None:
    """A known identity costs the INSERT that did nothing, and one SELECT."""
    publish(database, event_id="id")
    with transaction.atomic(using=database):
        Order.objects.using(database).create(number="1")
        with statements() as run:
            publish(database, event_id="id")
    assert [sql.split()[0] for sql in run] == ["INSERT", "SELECT"]


def test_publishers_are_shared_by_threads(database: str) -> None:
    """One instance publishes from many threads, and an instance of one's own is as good."""
    count, each = 4, 10

    def write(number: int) -> None:
        instance = publisher if number % 2 else OutboxPublisher()
        for index in range(each):
            with transaction.atomic(using=database):
                text = f"{number}-{index}"
                Order.objects.using(database).create(number=text)
                instance.publish_event("order.placed", "/shop", subject=text, using=database)

    with threads(count) as start:
        for running in [start(lambda number=number: write(number)) for number in range(count)]:
            running.result(SECONDS)
    orders, events = orders_and_events(database)
    assert sorted(orders) == sorted(events)
    assert len(set(events)) == count * each


# --- event_created -------------------------------------------------------------------------------


@contextmanager
def receiving(*receivers: Any) -> Iterator[None]:
    """Connect receivers of event_created for the time of the block."""
    for receiver in receivers:
        event_created.connect(receiver, weak=False)
    try:
        yield
    finally:
        for receiver in receivers:
            event_created.disconnect(receiver)


def test_event_created_is_sent_inside_of_the_transaction(database: str) -> None:
    """Receivers get the row when it is written, and what they write commits with it."""
    received = []

    def note(sender: object, event: OutboxEvent, **_: Any) -> None:
        assert connections[database].in_atomic_block
        Order.objects.using(database).create(number="by the receiver")
        received.append((sender, columns(outbox(database).get(pk=event.pk)) == columns(event)))

    with receiving(note):
        with transaction.atomic(using=database):
            publish(database)
        assert received == [(OutboxEvent, True)]
        assert Order.objects.using(database).count() == 1
        with undone(database):
            publish(database)
    assert len(received) == 2
    assert Order.objects.using(database).count() == 1


def test_event_created_is_sent_once_for_each_row(database: str) -> None:
    """A fan-out sends it for every row, and an identity that stands already for none."""
    received: list[str] = []

    def note(event: OutboxEvent, **_: Any) -> None:
        received.append(event.publisher_backend)

    with backends("one", "two", routes={"*": ["one", "two"]}), receiving(note):
        for _ in range(2):
            publish(database, event_id="id")
        publish(database, backend="two")
    assert received == ["one", "two", "two"]


def test_event_created_is_sent_once_of_two_transactions_at_once(database: str) -> None:
    """The writer that came second has created nothing."""
    received: list[Any] = []

    def note(event: OutboxEvent, **_: Any) -> None:
        received.append(event.data)

    with receiving(note), threads(1) as start:
        with transaction.atomic(using=database):
            publish(database, event_id="id", data=1)
            other = start(lambda: publish(database, event_id="id", data=2))
            wait_until(lambda: waits_for_lock(database), SECONDS, "the second waits")
        other.result(SECONDS)
    assert received == [1]


def test_receiver_that_raises_breaks_nothing(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its error is logged, other receivers are called, and the transaction commits."""
    received: list[OutboxEvent] = []

    def fail(**_: Any) -> None:
        raise Undo("a receiver's own trouble")

    def note(event: OutboxEvent, **_: Any) -> None:
        received.append(event)

    with receiving(fail, note), transaction.atomic(using=database):
        event = place_order(database)
        Order.objects.using(database).create(number="2")
    assert received == [event]
    assert "a receiver's own trouble" in caplog.text
    assert orders_and_events(database) == (["1", "2"], ["1"])


# --- Without time zones --------------------------------------------------------------------------


@pytest.mark.parametrize("activated", [None, "Asia/Tokyo"])
def test_moments_without_use_tz(database: str, activated: str | None) -> None:
    """With USE_TZ off rows hold local time, and events the same moments as ever.

    The local time is that of TIME_ZONE, also while a request has activated another.
    """
    later = NOON + timedelta(hours=1)
    without_zones = override_settings(USE_TZ=False, TIME_ZONE="America/Chicago")
    with without_zones, django_timezone.override(activated):
        event = publish(database, time=NOON, scheduled_at=later)
        row = outbox(database).get()
        assert columns(event) == columns(row)
        assert row.time == NOON.replace(tzinfo=None) - timedelta(hours=6)
        assert row.scheduled_at == later.replace(tzinfo=None) - timedelta(hours=6)
        assert (row.cloud_event.time, row.status) == (NOON, "scheduled")
        due = publish(database, time=NOON)
        [read] = RelayRows(database, "default", 0).fetch({due.partition}, due.pk, 1).rows
        assert message_of(read).event.time == NOON


def test_naive_scheduled_at_without_use_tz(database: str) -> None:
    """With USE_TZ off a naive moment is local time, as everywhere in Django."""
    with override_settings(USE_TZ=False, TIME_ZONE="America/Chicago"):
        now = datetime.now()  # noqa: DTZ005
        later = publish(database, scheduled_at=now + timedelta(minutes=5))
        due = publish(database, scheduled_at=now - timedelta(minutes=5))
        assert [columns(row) for row in outbox(database)] == [columns(later), columns(due)]
        assert (later.status, due.status) == ("scheduled", "pending")
        assert due.created_at - due.scheduled_at < timedelta(minutes=6)


def test_only_columns_with_unusual_values_are_bound(database: str) -> None:
    """A usual event binds a value for half of the columns; each other value is bound and kept."""
    usual = bound(database)
    unusual = bound(database, "s", data_schema="https://example.com/s", extensions={"a": 1})
    assert len(usual) == 12
    assert sorted(set(map(str, unusual)) - set(map(str, usual)))[-3:] == [
        "https://example.com/s",
        "s",
        '{"a":1}',
    ]
    row = OutboxEvent.objects.using(database).latest("id")
    assert (row.subject, row.data_schema, row.extensions) == (
        "s",
        "https://example.com/s",
        {"a": 1},
    )


def bound(database: str, subject: str = "", **options: Any) -> list[Any]:
    """Publish an event with the id of its subject; return the parameters of its INSERT."""
    found: list[Any] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("INSERT INTO django_broadcaster_outboxevent"):
            found.extend(params)
        return execute(sql, params, many, context)

    with connections[database].execute_wrapper(note):
        publisher.publish_event("a.b", "/s", {"n": 1}, subject, using=database, **options)
    return found
