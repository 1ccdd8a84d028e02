"""The rows that publish_events writes, of every kind of event and in every shape of iterable."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import transaction
from django.test import override_settings
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from django_broadcaster.events import CloudEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.relay.row_to_message import message_of
from django_broadcaster.store import RelayRows
from tests.events.strategies import EVENTS

from .many import ALL, cloud_event, event, subjects
from .test_publish import NOON, SDKS, backends, columns, exact, outbox, rounded

LATER = datetime(2030, 1, 2, tzinfo=UTC)


def as_by_publish_event(database: str, arguments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The columns of events that were published one by one, and removed again."""
    with transaction.atomic(using=database):
        for each in arguments:
            publisher.publish_event(**each, using=database)
        rows = [columns(row) for row in outbox(database)]
        transaction.set_rollback(True, using=database)
    return rows


def timeless(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Columns without those that differ from call to call."""
    return [{**row, "id": None, "created_at": None, "updated_at": None} for row in rows]


@pytest.mark.parametrize("batch_size", [3, 1000])
@pytest.mark.parametrize("with_id", [True, False], ids=["given-ids", "generated-ids"])
def test_rows_are_those_of_publish_event(database: str, with_id: bool, batch_size: int) -> None:
    """Every kind of event is written as `publish_event` writes it, column by column."""
    arguments = [
        {"time": NOON, "scheduled_at": LATER, "event_id": f"{number}-😀\\'\"", **each}
        for number, each in enumerate(ALL)
    ]
    expected = timeless(as_by_publish_event(database, arguments))
    if not with_id:
        for each in arguments:
            del each["event_id"]
    count = publisher.publish_events(arguments, using=database, batch_size=batch_size)
    rows = [columns(row) for row in outbox(database)]
    assert count == len(arguments)
    if not with_id:
        assert all(UUID(row["event_id"]).version == 7 for row in rows)
        assert len({row["event_id"] for row in rows}) == len(rows)
        generated = ("event_id", "identity", "partition")
        for row, same in zip(rows, expected, strict=True):
            row.update({name: same[name] for name in generated if name != "partition"})
            row["partition"] = same["partition"] if not row["partition_key"] else row["partition"]
    written = timeless(rows)
    assert written == expected
    assert [exact(row["data"]) for row in written] == [exact(row["data"]) for row in expected]


def test_defaults(database: str) -> None:
    """An event of the two required keywords is due now, with a UUIDv7 and three retries."""
    before = timezone.now()
    publisher.publish_events([{"event_type": "t", "source": "s"}] * 2, using=database)
    after = timezone.now()
    for row in outbox(database):
        assert before <= row.created_at == row.updated_at == row.scheduled_at <= after
        assert row.spec_version == "1.0"
        assert row.time is not None
        assert before <= row.time <= after
        assert (row.status, row.max_retries, row.retry_count) == ("pending", 3, 0)
        assert (row.identity, row.data, row.publisher_config) == (None, None, {})
    assert len({row.event_id for row in outbox(database)}) == 2


@hypothesis_settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(events=st.lists(EVENTS, max_size=5, unique_by=lambda each: (each.source, each.id)))
def test_any_events_come_back_as_they_were(database: str, events: list[CloudEvent]) -> None:
    """The rows of CloudEvents, and the messages made of them, are those CloudEvents."""
    outbox(database).delete()  # of the example before, which may have had the same ids
    assert publisher.publish_events(events, using=database) == len(events)
    for row, same in zip(outbox(database), events, strict=True):
        [read] = RelayRows(database, "default", 0).fetch({row.partition}, row.pk, 1).rows
        for each in (row.cloud_event, message_of(read).event):
            assert rounded(each.data) == rounded(same.data)
            assert each.has_data is same.has_data
            assert each.data_content_type == same.data_content_type
            assert each.replace(data=None, data_content_type=None) == same.replace(
                data=None, data_content_type=None
            )


def test_kinds_of_events_can_be_mixed(database: str) -> None:
    """Our CloudEvents, the SDK's and dictionaries stand in one list, in their order."""
    sdk = {"type": "order.placed", "source": "/shop", "subject": "", "partitionkey": "key"}
    sdks = [make({**sdk, "id": name, "subject": name}, {"n": 1}) for name, make in SDKS.items()]
    events = [event("dict"), cloud_event("ours"), *sdks, event("last", event_id="1")]
    assert publisher.publish_events(events, using=database) == len(events)
    assert subjects(database) == ["dict", "ours", *SDKS, "last"]
    read = {row.subject: row for row in outbox(database)}
    assert {read[name].partition_key for name in SDKS} == {"key"}
    assert {read[name].event_id for name in SDKS} == SDKS.keys()
    assert read["ours"].cloud_event == events[1]


def test_arguments_of_the_call_are_for_events_without_their_own(database: str) -> None:
    """A dictionary's own backend, time, retries and config go before those of the call."""
    own = {"backend": "one", "scheduled_at": NOON, "max_retries": 1, "publisher_config": {}}
    events = [cloud_event("ce"), event("dict"), event("own", **own), event("due", backend=None)]
    with backends("one", "two", "three", "default", routes={"order.*": "three"}):
        publisher.publish_events(
            events, backend="two", scheduled_at=LATER, max_retries=9, using=database
        )
    rows = outbox(database).values_list("publisher_backend", "scheduled_at", "max_retries")
    assert list(rows) == [("two", LATER, 9)] * 2 + [("one", NOON, 1), ("three", LATER, 9)]
    assert {row.status for row in outbox(database)} == {"scheduled"}


@pytest.mark.parametrize(
    "iterable",
    [list, tuple, iter, deque, lambda events: (each for each in events)],
    ids=["list", "tuple", "iterator", "deque", "generator"],
)
@pytest.mark.parametrize("count", [0, 1, 4, 5, 9])
def test_any_iterable_will_do(
    database: str, iterable: Callable[[Iterable[Any]], Iterable[Any]], count: int
) -> None:
    """Lists, iterators and generators of any length are written whole and in order."""
    events = iterable(event(number) for number in range(count))
    with transaction.atomic(using=database):
        assert publisher.publish_events(events, using=database, batch_size=4) == count
    assert subjects(database) == [str(number) for number in range(count)]


def test_generator_is_read_as_its_events_are_written(database: str) -> None:
    """Of a long iterable no more than a chunk is held in memory."""
    seen: list[int] = []

    def generated() -> Iterator[dict[str, Any]]:
        for number in range(10):
            seen.append(outbox(database).count())
            yield event(number)

    publisher.publish_events(generated(), using=database, batch_size=4)
    assert seen == [0] * 4 + [4] * 4 + [8] * 2


def test_later_changes_of_the_arguments_change_nothing(database: str) -> None:
    """A generator may reuse its dictionary: each event is what it was when it was taken."""
    reused: dict[str, Any] = event()

    def generated() -> Iterator[dict[str, Any]]:
        for number in range(3):
            reused["data"]["n"] = number
            yield reused

    publisher.publish_events(generated(), using=database)
    assert [row.data for row in outbox(database)] == [{"n": 0}, {"n": 1}, {"n": 2}]


@pytest.mark.parametrize("activated", [None, "Asia/Tokyo"])
def test_moments_without_use_tz(database: str, activated: str | None) -> None:
    """With USE_TZ off rows hold the local time of TIME_ZONE, as those of publish_event do."""
    moments = [
        {"time": NOON, "scheduled_at": NOON + timedelta(hours=1)},
        {"scheduled_at": timezone.make_naive(NOON, UTC)},
        {},
    ]
    without_zones = override_settings(USE_TZ=False, TIME_ZONE="America/Chicago")
    with without_zones, timezone.override(activated):
        before = datetime.now()  # noqa: DTZ005
        publisher.publish_events([event(**each) for each in moments], using=database)
        first, second, third = outbox(database)
    assert first.time == NOON.replace(tzinfo=None) - timedelta(hours=6)
    assert first.scheduled_at == NOON.replace(tzinfo=None) - timedelta(hours=5)
    assert second.scheduled_at == NOON.replace(tzinfo=None)
    assert third.status == "pending"
    assert before.tzinfo is third.created_at.tzinfo is None
