"""Rows that an application writes through the model."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from django.db import IntegrityError, connections, transaction
from django.db.models import JSONField, Value
from django.test import override_settings
from django.utils import timezone

from django_broadcaster.backends import locmem
from django_broadcaster.exceptions import (
    IllegalTransition,
    InvalidEvent,
    InvalidPublisherConfig,
    PublishError,
    UnknownBackend,
    WrongTransaction,
)
from django_broadcaster.models import OutboxEvent, OutboxEventStatus
from django_broadcaster.publishers import publisher
from django_broadcaster.signals import (
    event_created,
    event_failed,
    event_published,
    event_retried,
)
from tests.app.models import Order
from tests.publishers.statements import statements
from tests.relay.conftest import Join, drain
from tests.support.events import publish
from tests.support.routing import OneDatabase

if TYPE_CHECKING:
    from pytest_django import Settings

S = OutboxEventStatus
LOCMEM = "django_broadcaster.backends.LocMemBackend"


def create(database: str, **values: Any) -> OutboxEvent:
    """Write a row as an application does."""
    values = {"event_type": "order.placed", "source": "shop", **values}
    return OutboxEvent.objects.using(database).create(**values)


def test_type_and_source_are_enough(database: str, join: Join) -> None:
    """What else a row needs is filled in, and it is delivered."""
    locmem.clear()
    event = create(database)
    assert isinstance(event.id, int)
    assert UUID(event.event_id).version == 7
    assert (event.status, event.publisher_backend) == (S.PENDING, "default")
    assert (event.spec_version, event.max_retries, event.data) == ("1.0", 3, None)
    assert str(event) == f"order.placed - {event.id}"
    assert event.to_cloud_event()["id"] == event.event_id
    drain(join())
    assert [message.event_id for message in locmem.outbox()] == [event.event_id]
    event.refresh_from_db()
    assert event.status == "published"


def test_rows_do_not_need_time_zones(database: str) -> None:
    """With USE_TZ off the moments of a row are local, as in every other model, and it is due."""
    with override_settings(USE_TZ=False, TIME_ZONE="America/Chicago"):
        before = timezone.now()
        event = create(database)
        OutboxEvent.objects.using(database).bulk_create(
            [OutboxEvent(event_type="order.placed", source="shop")]
        )
        rows = list(OutboxEvent.objects.using(database).order_by("id"))
        assert [row.status for row in rows] == ["pending", "pending"]
        assert all(row.time and before <= row.time <= timezone.now() for row in rows)
        assert event.to_cloud_event()["time"].endswith(("Z", "+00:00"))


def test_row_is_the_one_that_publish_event_writes(database: str) -> None:
    """Every column is the same, but for the id and the moments."""
    arguments: dict[str, Any] = {
        "event_type": "order.placed", "source": "/shop", "data": {"total": 1.5, "ä": None},
        "subject": "7", "event_id": "A-7", "partition_key": "order-7", "max_retries": 5,
        "data_schema": "https://example.com/s", "extensions": {"flag": True},
    }  # fmt: skip
    written = publisher.publish_event(**arguments, using=database)
    left_out = {"id", "time", "created_at", "updated_at", "scheduled_at"}
    columns = [f.attname for f in OutboxEvent._meta.fields if f.attname not in left_out]
    expected = OutboxEvent.objects.using(database).values(*columns).get()
    written.delete()
    create(database, **arguments)
    assert OutboxEvent.objects.using(database).values(*columns).get() == expected


@pytest.mark.parametrize(
    ("data", "has_data", "read"),
    [
        (None, False, None),
        (Value(None, JSONField()), True, None),
        ([1, "ä"], True, [1, "ä"]),
        (b"\x00\xff", True, b"\x00\xff"),
        ("text", True, "text"),
    ],
    ids=["none", "null", "list", "bytes", "text"],
)
def test_data_of_every_kind(database: str, data: Any, has_data: bool, read: Any) -> None:
    """None is no data, Django's own expression is JSON's null, and bytes are kept as they are."""
    create(database, data=data)
    event = OutboxEvent.objects.using(database).get().cloud_event
    assert (event.has_data, event.data) == (has_data, read)


def test_row_that_is_not_written_yet_has_no_data(database: str) -> None:
    """What has no row yet has no JSON null in its row."""
    values = {"event_type": "order.placed", "data_content_type": "application/json"}
    event = OutboxEvent(event_id="A-1", source="/shop", **values)
    assert not event.cloud_event.has_data


@pytest.mark.parametrize("adding", [True, False])
def test_copy_of_a_row_is_filled_in(database: str, adding: bool) -> None:
    """A copy without its key and its id is a new event, however Django is told so."""
    event = create(database, data={"total": 1})
    first = event.event_id
    event.pk, event.event_id, event._state.adding = None, "", adding
    event.save(using=database)
    ids = OutboxEvent.objects.using(database).values_list("event_id", flat=True)
    assert len({*ids, first}) == 2
    assert event.event_id in ids
    assert event.cloud_event.data == {"total": 1}


def test_bulk_create_fills_in_each_row(database: str, join: Join) -> None:
    """Many rows are delivered in order like those of one call, each with an id of its own."""
    locmem.clear()
    OutboxEvent.objects.using(database).bulk_create(
        OutboxEvent(
            event_type="order.placed", source="/shop", subject=str(n), partition_key="k", data=n
        )
        for n in range(50)
    )
    rows = OutboxEvent.objects.using(database).order_by("id")
    assert len({row.event_id for row in rows}) == 50
    assert len({row.partition for row in rows}) == 1
    drain(join())
    assert [message.subject for message in locmem.outbox()] == [str(n) for n in range(50)]
    locmem.clear()


def test_row_goes_to_the_backends_of_its_route(database: str, settings: Settings) -> None:
    """A copy is written for each further backend, as by `publish_event`."""
    settings.OUTBOX_PUBLISHERS = {alias: {"BACKEND": LOCMEM} for alias in ("one", "two", "three")}
    settings.OUTBOX_ROUTES = {"order.*": ["two", "three"]}
    event = create(database, data={"a": 1})
    assert event.publisher_backend == "two"
    rows = OutboxEvent.objects.using(database).order_by("id")
    assert [row.publisher_backend for row in rows] == ["two", "three"]
    assert len({row.event_id for row in rows}) == 1
    assert rows[1].cloud_event == rows[0].cloud_event
    assert create(database, publisher_backend="one").publisher_backend == "one"
    assert create(database, event_type="else").publisher_backend == "one", "the first"


def test_row_for_later_is_scheduled(database: str) -> None:
    """It is not due before its moment."""
    later = timezone.now() + timedelta(hours=1)
    assert create(database, scheduled_at=later).status == S.SCHEDULED


@pytest.mark.parametrize(
    ("values", "kind", "field"),
    [
        ({"event_type": ""}, InvalidEvent, "event_type"),
        ({"source": "user service"}, InvalidEvent, "source"),
        ({"data": float("nan")}, InvalidEvent, "data"),
        ({"data": object()}, InvalidEvent, "data"),
        ({"spec_version": "0.3"}, InvalidEvent, "spec_version"),
        ({"subject": "x" * 513}, InvalidEvent, "subject"),
        ({"max_retries": -1}, InvalidEvent, "max_retries"),
        ({"publisher_backend": "gone"}, UnknownBackend, "backend"),
        ({"publisher_config": {"no": 1}}, InvalidPublisherConfig, "publisher_config"),
    ],
)
@pytest.mark.parametrize("way", ["create", "bulk_create"])
def test_invalid_row_is_refused_before_any_statement(
    database: str, way: str, values: dict[str, Any], kind: type[PublishError], field: str
) -> None:
    """The error names the field, and the caller's transaction stays usable."""
    values = {"event_type": "order.placed", "source": "shop", **values}
    with transaction.atomic(using=database):
        Order.objects.using(database).create(number="1")
        events = OutboxEvent.objects.using(database)
        with statements() as run, pytest.raises(kind, match=f"^{field}"):
            events.create(**values) if way == "create" else events.bulk_create(
                [OutboxEvent(**values)]
            )
        assert run == []
    assert Order.objects.using(database).count() == 1
    assert not OutboxEvent.objects.using(database).exists()


@pytest.mark.parametrize("kind", [UUID, str])
def test_key_of_version_0_1_is_the_id_of_the_event(
    database: str, kind: Callable[[str], Any]
) -> None:
    """A UUID that is given as `id`, or its text, becomes the event's id."""
    given = kind(str(uuid4()))
    event = OutboxEvent(id=given, event_type="order.placed", source="shop")
    event.save(using=database)
    assert isinstance(event.pk, int)
    assert event.event_id == str(given)


class ReplicaRouter(OneDatabase):
    """Reads elsewhere than it writes."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        """Return the alias of a replica, which is away."""
        return "replica"


def test_rows_are_written_where_the_router_writes(database: str, settings: Settings) -> None:
    """`bulk_create` asks no replica, neither for the rows nor for those of further backends."""
    settings.DATABASE_ROUTERS = [ReplicaRouter(database)]
    settings.OUTBOX_PUBLISHERS = {"a": {"BACKEND": LOCMEM}, "b": {"BACKEND": LOCMEM}}
    settings.OUTBOX_ROUTES = {"*": ["a", "b"]}
    with transaction.atomic(using=database):
        OutboxEvent.objects.bulk_create([OutboxEvent(event_type="order.placed", source="shop")])
    rows = OutboxEvent.objects.using(database).order_by("id")
    assert list(rows.values_list("publisher_backend", flat=True)) == ["a", "b"]


def replicated(database: str, status: str = "pending") -> OutboxEvent:
    """Return a new event as if it had been read from the replica."""
    event = create(database)
    OutboxEvent.objects.using(database).filter(pk=event.pk).update(status=status)
    event._state.db = "replica"
    return event


def test_rows_are_changed_where_the_router_writes(database: str, settings: Settings) -> None:
    """Events that were read from a replica are marked, moved and delivered in their database."""
    settings.DATABASE_ROUTERS = [ReplicaRouter(database)]
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": LOCMEM}}
    settings.OUTBOX_RETRY = {"initial": 60.0, "factor": 2.0}
    replicated(database).mark_as_published()
    replicated(database).mark_as_failed("no")
    replicated(database).increment_retry("busy")
    assert publisher._process_single_event(replicated(database))
    replicated(database, "cancelled")
    last = replicated(database, "failed").pk
    moved = [chunk.replay() for chunk in OutboxEvent.objects.dead_letters().in_chunks(1)]
    assert moved == [1, 1]
    statuses = OutboxEvent.objects.using(database).order_by("id").values_list("status", flat=True)
    assert list(statuses) == [
        *("published", "scheduled", "retry", "published", "cancelled", "scheduled")
    ]
    assert OutboxEvent.objects.using(database).get(pk=last).status == S.SCHEDULED


def test_same_event_twice_is_refused(database: str) -> None:
    """An id that the application gave is unique for its source and backend."""
    create(database, event_id="A-1")
    with pytest.raises(IntegrityError):
        create(database, event_id="A-1")
    assert create(database, event_id="A-1", source="/other").pk


def test_outside_of_a_transaction_is_refused_where_that_is_set(
    database: str, settings: Settings
) -> None:
    """OUTBOX_REQUIRE_TRANSACTION holds for the model, too."""
    settings.OUTBOX_REQUIRE_TRANSACTION = True
    with pytest.raises(WrongTransaction):
        create(database)
    with transaction.atomic(using=database):
        create(database)


def test_rolled_back_row_was_never_there(database: str) -> None:
    """Row and copies share the caller's transaction."""
    with transaction.atomic(using=database):
        create(database)
        transaction.set_rollback(True, using=database)
    assert not OutboxEvent.objects.using(database).exists()


def test_payload_is_encrypted(database: str, settings: Settings) -> None:
    """With OUTBOX_ENCRYPTION_KEYS the database never sees the data."""
    settings.OUTBOX_ENCRYPTION_KEYS = ["x" * 43 + "="]
    create(database, data={"card": "4242"})
    row = OutboxEvent.objects.using(database).get()
    assert (row.data, row.data_binary) == (None, None)
    assert row.cloud_event.data == {"card": "4242"}


def test_created_rows_are_signalled_and_updates_are_not(database: str) -> None:
    """`event_created` is sent once for each row."""
    seen: list[str] = []

    def note(event: OutboxEvent, **_: Any) -> None:
        seen.append(event.event_id)

    event_created.connect(note)
    try:
        event = create(database)
        event.save()
        create(database, event_id="A-2")
    finally:
        event_created.disconnect(note)
    assert seen == [event.event_id, "A-2"]


def test_relays_are_woken_after_the_commit(database: str) -> None:
    """On PostgreSQL a row of the model is as fast as one of `publish_event`."""
    if connections[database].vendor != "postgresql":
        pytest.skip("only PostgreSQL has NOTIFY")
    with transaction.atomic(using=database):
        create(database)
        hooks = [entry[1] for entry in connections[database].run_on_commit]
    assert [hook.__module__ for hook in hooks] == ["django_broadcaster.notify"]


# --- What an application says became of an event ------------------------------------------------


@pytest.fixture
def heard() -> Any:
    """The names of the signals that are sent."""
    names: list[str] = []
    signals = {"published": event_published, "retried": event_retried, "failed": event_failed}
    receivers = []
    for name, signal in signals.items():

        def note(name: str = name, **_: Any) -> None:
            names.append(name)

        signal.connect(note, weak=False)
        receivers.append((signal, note))
    yield names
    for signal, note in receivers:
        signal.disconnect(note)


def read(event: OutboxEvent) -> OutboxEvent:
    """Read a row again."""
    return OutboxEvent.objects.using(event._state.db).get(pk=event.pk)


@pytest.mark.parametrize("status", ["pending", "processing", "scheduled", "retry", "blocked"])
def test_undelivered_event_is_marked_as_published(
    database: str, status: str, heard: list[str]
) -> None:
    """It is published now, here and in the database."""
    event = create(database, status=status)
    event.mark_as_published()
    for each in (event, read(event)):
        assert each.status == S.PUBLISHED
        assert each.published_at is not None
    event.mark_as_published()
    assert heard == ["published"], "once"


def test_event_is_marked_as_failed(database: str, heard: list[str]) -> None:
    """It is a dead letter with the error, which an operator may retry."""
    (event,) = publish("a1", using=database)
    event.mark_as_failed("no such account")
    found = read(event)
    assert (found.status, found.last_error) == (S.FAILED, "no such account")
    assert found.ended_at is not None
    assert OutboxEvent.objects.using(database).dead_letters().get() == event
    assert heard == ["failed"]


def test_retries_are_spent_until_the_event_fails(database: str, heard: list[str]) -> None:
    """Each waits twice as long as the one before, and the last one gives the event up."""
    event = create(database, max_retries=3)
    waits = []
    for number in (1, 2):
        before = timezone.now()
        event.increment_retry(f"error {number}")
        found = read(event)
        assert (found.status, found.retry_count) == (S.RETRY, number)
        assert found.last_error == f"error {number}"
        waits.append(round((found.scheduled_at - before).total_seconds() / 60))
    assert waits == [2, 4]
    event.increment_retry()
    found = read(event)
    assert (found.status, found.retry_count, found.last_error) == (S.FAILED, 3, "error 2")
    assert heard == ["retried", "retried", "failed"]


@pytest.mark.parametrize("status", ["published", "failed", "cancelled"])
@pytest.mark.parametrize("call", ["mark_as_published", "mark_as_failed", "increment_retry"])
def test_illegal_moves_are_refused(database: str, status: str, call: str) -> None:
    """An event that is done changes only by an operator's replay."""
    event = create(database, status=status)
    if (status, call) == ("published", "mark_as_published"):
        event.mark_as_published()
    else:
        arguments = ["error"] if call == "mark_as_failed" else []
        if (status, call) == ("failed", "mark_as_failed"):
            event.mark_as_failed(*arguments)
        else:
            with pytest.raises(IllegalTransition, match=status):
                getattr(event, call)(*arguments)
    assert read(event).status == status


def test_other_relays_verdict_is_not_overwritten(database: str) -> None:
    """What the instance says counts for nothing, the row decides."""
    event = create(database)
    OutboxEvent.objects.using(database).cancel()
    with pytest.raises(IllegalTransition, match="cancelled"):
        event.mark_as_published()
