"""What publish_events writes, in which order, and in how many statements."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from django.db import DatabaseError, connections, transaction
from django.test import override_settings

from django_broadcaster.backends import locmem
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.publishing import bulk
from django_broadcaster.signals import event_created
from django_broadcaster.store import limits_statements, max_statement
from tests.app.models import Order
from tests.support.routing import OneDatabase
from tests.support.waiting import wait_until

from .many import ALL, cloud_event, event, subjects
from .statements import statements
from .test_publish import (
    SECONDS,
    Undo,
    backends,
    columns,
    failing_insert,
    orders_and_events,
    outbox,
    receiving,
    undone,
)
from .threads import threads, waits_for_lock

if TYPE_CHECKING:
    from pytest_django import Settings


def verbs(run: Iterable[str]) -> list[str]:
    """The first words of statements."""
    return [sql.split()[0] for sql in run]


# --- Atomic --------------------------------------------------------------------------------------


def test_events_commit_with_the_change(database: str) -> None:
    """Other connections see all events when the transaction commits, and none before."""

    def seen() -> tuple[list[str], list[str]]:
        return orders_and_events(database)

    with threads(1) as start:
        with transaction.atomic(using=database):
            Order.objects.using(database).create(number="1")
            assert publisher.publish_events([event(1), event(2)], using=database) == 2
            assert start(seen).result(SECONDS) == ([], [])
        assert start(seen).result(SECONDS) == (["1"], ["1", "2"])


@pytest.mark.parametrize("batch_size", [2, 10])
def test_events_are_rolled_back_with_the_change(database: str, batch_size: int) -> None:
    """A transaction or a savepoint that fails leaves none of the events of its calls behind."""
    with transaction.atomic(using=database):
        publisher.publish_events(map(event, "12345"), using=database, batch_size=batch_size)
        with undone(database):
            publisher.publish_events(map(event, "abcde"), using=database, batch_size=batch_size)
        publisher.publish_events(map(event, "67"), using=database, batch_size=batch_size)
    with undone(database):
        publisher.publish_events([*map(event, "vwxyz")], using=database, batch_size=batch_size)
    assert subjects(database) == [*"1234567"]


@pytest.mark.parametrize("batch_size", [2, 10])
def test_events_outside_of_a_transaction_are_there_at_once_or_not_at_all(
    database: str, batch_size: int
) -> None:
    """Without a transaction the call is one: all of its events are there at its end, or none."""
    publisher.publish_events([*map(event, "12345")], using=database, batch_size=batch_size)
    with failing_insert(database, 2 if batch_size == 2 else 1), pytest.raises(DatabaseError):
        publisher.publish_events([*map(event, "abcde")], using=database, batch_size=batch_size)
    with threads(1) as start:
        assert start(lambda: subjects(database)).result(SECONDS) == [*"12345"]


def test_transaction_without_autocommit_is_the_callers(database: str) -> None:
    """Code that switched autocommit off commits and rolls back itself."""
    transaction.set_autocommit(False, using=database)
    try:
        for size in (2, 10):
            publisher.publish_events(map(event, "abc"), using=database, batch_size=size)
            publisher.publish_events([*map(event, "def")], using=database, batch_size=size)
            transaction.rollback(using=database)
            publisher.publish_events([*map(event, "123")], using=database, batch_size=size)
            transaction.commit(using=database)
    finally:
        transaction.rollback(using=database)
        transaction.set_autocommit(True, using=database)
    assert subjects(database) == [*"123123"]


def test_error_of_the_iterable_leaves_nothing_of_the_call(database: str) -> None:
    """What a generator raises is raised, what it wrote is taken back, and the caller goes on."""

    def generated() -> Iterator[dict[str, Any]]:
        for number in range(5):
            Order.objects.using(database).create(number=str(number))
            yield event(number)
        raise Undo("the application's own trouble")

    with transaction.atomic(using=database):
        Order.objects.using(database).create(number="before")
        for batch_size in (2, 10):
            with pytest.raises(Undo, match="own trouble"):
                publisher.publish_events(generated(), using=database, batch_size=batch_size)
        publisher.publish_events([event("behind")], using=database)
    assert orders_and_events(database) == (["before"], ["behind"])


def test_database_error_between_chunks_leaves_the_transaction_usable(database: str) -> None:
    """A chunk that the database refuses takes the chunks before it along, and nothing else."""
    with transaction.atomic(using=database):
        publisher.publish_events([event("before")], using=database)
        with failing_insert(database, 2), pytest.raises(DatabaseError, match="disk is full"):
            publisher.publish_events(map(event, "abcde"), using=database, batch_size=2)
        publisher.publish_events([event("behind")], using=database)
    assert subjects(database) == ["before", "behind"]


def test_generator_may_use_the_connection(database: str) -> None:
    """A generator reads and writes on the same connection, and publishes, while it is read."""

    def generated() -> Iterator[dict[str, Any]]:
        orders = Order.objects.using(database).order_by("id")
        for order in orders.iterator(chunk_size=2):
            with transaction.atomic(using=database):
                Order.objects.using(database).filter(pk=order.pk).update(number=f"{order.number}!")
            if order.number == "4":
                publisher.publish_event(**event("between"), using=database)
            yield event(order.number)

    with transaction.atomic(using=database):
        for number in range(7):
            Order.objects.using(database).create(number=str(number))
        assert publisher.publish_events(generated(), using=database, batch_size=3) == 7
    orders, events = orders_and_events(database)
    assert orders == [f"{number}!" for number in range(7)]
    assert events == ["0", "1", "2", "between", "3", "4", "5", "6"]


# --- Order ---------------------------------------------------------------------------------------


def test_ids_grow_in_order_of_ten_thousand_events(database: str) -> None:
    """Whatever their kinds, the rows of a call have ids in the order of its events."""

    def mixed(number: int) -> Any:
        if number % 3 == 0:
            return cloud_event(number, extensions={"partitionkey": f"key-{number % 7}"})
        given = {"event_id": str(number)} if number % 3 == 1 else {}
        return event(number, partition_key=f"key-{number % 7}", **given)

    with transaction.atomic(using=database):
        count = publisher.publish_events(map(mixed, range(10_000)), using=database)
    assert count == 10_000
    ids = list(outbox(database).values_list("id", "subject"))
    assert [subject for _, subject in ids] == [str(number) for number in range(10_000)]
    assert len({row_id for row_id, _ in ids}) == 10_000


def test_relay_delivers_in_order(database: str, settings: Settings) -> None:
    """What arrives of a key is in the order of the iterable, over chunks and calls."""
    locmem.clear()
    settings.DATABASE_ROUTERS = [OneDatabase(database)]
    events = [event(number, partition_key=f"key-{number % 5}") for number in range(300)]
    with transaction.atomic(using=database):
        publisher.publish_events(events[:150], batch_size=40)
        publisher.publish_events(iter(events[150:]), batch_size=40)
    while publisher.process_pending_events(batch_size=70):
        pass
    arrived = [(each.partition_key, int(each.subject)) for each in locmem.outbox()]
    assert len(arrived) == 300
    for key in {key for key, _ in arrived}:
        numbers = [number for name, number in arrived if name == key]
        assert numbers == sorted(numbers)


# --- Once per identity ---------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_known_identities_are_written_once(database: str, batch_size: int) -> None:
    """Events with an id of the caller are left out where they are known, and not counted."""
    known = cloud_event("first")
    publisher.publish_cloud_event(known, using=database)
    events = [
        known,
        event("a", event_id="1"),
        event("generated"),
        event("again", event_id="1"),
        known.replace(subject="other"),
        event("other source", event_id="1", source="/other"),
        event("generated"),
        event("last", event_id="2"),
    ]
    with transaction.atomic(using=database):
        count = publisher.publish_events(events, using=database, batch_size=batch_size)
        Order.objects.using(database).create(number="1")
    written = ["first", "a", "generated", "other source", "generated", "last"]
    assert (count, subjects(database)) == (5, written)
    assert publisher.publish_events(events, using=database, batch_size=batch_size) == 2
    assert [row.identity is None for row in outbox(database)][:6] == [
        subject == "generated" for subject in written
    ]


@pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])
def test_same_identities_from_two_transactions_at_once(database: str, commits: bool) -> None:
    """The second call waits for the first, and writes what that did not commit."""
    begun = threading.Event()

    def second() -> int:
        begun.set()
        with transaction.atomic(using=database):
            events = [event(f"second {number}", event_id=str(number)) for number in "345"]
            return publisher.publish_events(events, using=database)

    with threads(1) as start:
        with transaction.atomic(using=database):
            events = [event(f"first {number}", event_id=str(number)) for number in "123"]
            publisher.publish_events(events, using=database)
            other = start(second)
            assert begun.wait(SECONDS)
            wait_until(lambda: waits_for_lock(database), SECONDS, "the second waits")
            transaction.set_rollback(not commits, using=database)
        count = other.result(SECONDS)
    firsts = ["first 1", "first 2", "first 3"] if commits else ["second 3"]
    assert count == (2 if commits else 3)
    assert subjects(database) == [*firsts, "second 4", "second 5"]


# --- Routes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [2, 3, 100])
@pytest.mark.parametrize("event_id", [None, "id"], ids=["generated-id", "given-id"])
def test_route_to_several_backends_writes_a_row_for_each(
    database: str, event_id: str | None, batch_size: int
) -> None:
    """Each event has a row for each alias of its route, which are the same event."""
    routes = {"order.*": ["two", "one"], "invoice.*": "one"}
    events = [
        event("a", event_id=event_id),
        event("b", event_type="invoice.sent"),
        cloud_event("c"),
        event("d", backend="two"),
    ]
    with backends("one", "two", routes=routes):
        count = publisher.publish_events(iter(events), using=database, batch_size=batch_size)
        again = publisher.publish_events([events[0], events[2]], using=database)
    rows = [(row.subject, row.publisher_backend) for row in outbox(database)][:6]
    pairs = [("a", "two"), ("a", "one"), ("b", "one"), ("c", "two"), ("c", "one"), ("d", "two")]
    assert (count, rows) == (6, pairs)
    assert again == (0 if event_id else 2)
    assert len({row.event_id for row in outbox(database)[:6]}) == 4


# --- Cost ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "events",
    [
        [event(number) for number in range(1000)],
        [cloud_event(number) for number in range(1000)],
        [event("one")],
    ],
    ids=["dictionaries", "cloud-events", "one"],
)
@override_settings(OUTBOX_NOTIFY=False)
def test_list_that_fits_is_one_insert(database: str, events: list[Any]) -> None:
    """In a transaction a chunk is one statement, without a savepoint."""
    if limits_statements(connections[database]):
        max_statement(connections[database])  # it is asked for again after a while
    with transaction.atomic(using=database):
        Order.objects.using(database).create(number="1")
        with statements() as run:
            assert publisher.publish_events(events, using=database) == len(events)
    assert verbs(run) == ["INSERT"]


@override_settings(OUTBOX_NOTIFY=False)
@pytest.mark.parametrize("iterable", [list, iter])
def test_more_than_a_chunk_is_an_insert_for_each(
    database: str, iterable: Callable[[Iterable[Any]], Iterable[Any]]
) -> None:
    """A long call is one savepoint, and one statement for each chunk of its rows."""
    events = iterable(event(number) for number in range(25))
    with backends("one", "two", routes={"*": ["one", "two"]}), transaction.atomic(using=database):
        Order.objects.using(database).create(number="1")
        with statements() as run:
            assert publisher.publish_events(events, using=database, batch_size=20) == 50
    assert verbs(run) == ["SAVEPOINT", "INSERT", "INSERT", "INSERT", "RELEASE"]


def test_large_data_makes_smaller_chunks(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement holds no more data than servers take, whatever the number of its rows."""
    monkeypatch.setattr(bulk, "MOST_CHARACTERS", 2000)
    kinds = ["x" * 900, "x" * 5000, b"x" * 900, b"x" * 900, b"x" * 900, "x", "x"]
    events = [event(number, data=data) for number, data in enumerate(kinds)]
    with statements() as run:
        publisher.publish_events(events, using=database)
    assert verbs(run).count("INSERT") == 3
    assert subjects(database) == [str(number) for number in range(7)]


def test_no_events_are_no_statements(database: str) -> None:
    """An empty list says nothing to the database."""
    with transaction.atomic(using=database):
        Order.objects.using(database).create(number="1")
        with statements() as run:
            assert publisher.publish_events([], using=database) == 0
            assert publisher.publish_events((), using=database) == 0
    assert run == []


# --- Those who wait for events -------------------------------------------------------------------


def test_event_created_is_sent_for_each_row_that_is_new(database: str) -> None:
    """Receivers get every row as the database holds it, in order, inside of the transaction."""
    received: list[OutboxEvent] = []

    def note(event: OutboxEvent, **_: Any) -> None:
        assert connections[database].in_atomic_block
        assert columns(outbox(database).get(pk=event.pk)) == columns(event)
        received.append(event)

    arguments = [
        {**each, **({"event_id": str(number)} if number % 2 else {})}
        for number, each in enumerate(ALL)
    ]
    twice = [arguments[1], *arguments, arguments[3], event("last")]
    publisher.publish_events(arguments[5:6], using=database)
    with receiving(note):
        count = publisher.publish_events(twice, using=database, batch_size=10)
    rows = list(outbox(database))[1:]
    assert received == rows
    assert count == len(rows) == len(ALL)


def test_receiver_that_raises_breaks_nothing(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its error is logged, and all events are written."""

    def fail(**_: Any) -> None:
        raise Undo("a receiver's own trouble")

    with receiving(fail), transaction.atomic(using=database):
        assert publisher.publish_events([event("1"), event("2")], using=database) == 2
    assert subjects(database) == ["1", "2"]
    assert "a receiver's own trouble" in caplog.text
    assert not event_created.receivers
