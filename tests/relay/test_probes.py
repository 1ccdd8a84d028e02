"""What a probe reads and tries while one event looks like an outage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import pytest
from django.db import OperationalError, connections, transaction

from django_broadcaster.exceptions import BackendUnavailable, TransientError
from django_broadcaster.relay import doubts, fetching
from django_broadcaster.relay.loop import DeliveryLoop
from tests.support.backends import Script
from tests.support.databases import SERVERS
from tests.support.events import publish

from .conftest import Join, turn

if TYPE_CHECKING:
    from pytest_django import Settings

AWAY = BackendUnavailable("503 Service Unavailable")
BACKLOG = 200


@contextmanager
def counting(loop: DeliveryLoop) -> Iterator[list[str]]:
    """Collect the statements of a relay that read pending events."""
    found: list[str] = []

    def note(execute: Callable[..., Any], sql: str, params: Any, *rest: Any) -> Any:
        if "outboxevent" in sql and "partition_key FROM" in sql:
            found.append(str(params))
        return execute(sql, params, *rest)

    with connections[loop.using].execute_wrapper(note):
        yield found


@contextmanager
def late_commit(name: str, database: str) -> Iterator[None]:
    """Publish an event at once, whose transaction commits at the end of the block."""
    written, end = Event(), Event()

    def write() -> None:
        try:
            with transaction.atomic(using=database):
                publish(name, using=database)
                written.set()
                end.wait(20)
        finally:
            connections.close_all()

    thread = Thread(target=write)
    thread.start()
    assert written.wait(20)
    try:
        yield
    finally:
        end.set()
        thread.join(20)


@pytest.fixture
def doubted(
    database: str, scripted: Script, join: Join, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> DeliveryLoop:
    """A relay whose one key fails while others got through; its pause does not end."""
    settings.OUTBOX_CIRCUIT = {"initial": 600.0, "maximum": 600.0}
    monkeypatch.setattr(doubts, "SCAN_SECONDS", 600.0)
    scripted.fail("a1", AWAY)
    publish("b1", *(f"a{number}" for number in range(1, BACKLOG)), using=database)
    loop = join()
    turn(loop)
    assert loop.circuit.is_doubted
    loop.turn(10)
    return loop


def test_a_key_that_fails_is_not_read_as_a_whole_at_each_turn(
    database: str, scripted: Script, doubted: DeliveryLoop
) -> None:
    """Once nothing else was found, a probe begins behind all that was looked at."""
    with counting(doubted) as statements:
        for _ in range(5):
            doubted.turn(10)
    assert len(statements) == 5
    with connections[database].cursor() as cursor:
        cursor.execute("SELECT MAX(id) FROM django_broadcaster_outboxevent")
        (last,) = cursor.fetchone()
    assert all(str(last + 1) in params for params in statements)


def test_an_event_that_comes_meanwhile_is_found_at_once(
    database: str, scripted: Script, doubted: DeliveryLoop
) -> None:
    """Events of other keys are delivered in the next turn, though the pause goes on."""
    publish("c1", using=database)
    doubted.turn(10)
    assert scripted.arrived[-1] == "c1"


def test_an_event_that_is_due_again_is_found_at_once(
    database: str, scripted: Script, join: Join, settings: Settings, doubted: DeliveryLoop
) -> None:
    """So is one with a low id, that waited for a retry."""
    scripted.fail("c1", TransientError("busy"), times=1)
    (event,) = publish("c1", using=database)
    doubted.turn(10)
    publish("d1", using=database)
    doubted.turn(10)
    while doubted.turn(10).found_work:
        pass
    assert doubted.circuit.is_doubted
    type(event).objects.using(database).filter(pk=event.pk).hasten()
    doubted.rounds.are_wanted.set()
    doubted.turn(10)
    assert scripted.arrived[-1] == "c1"


@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_a_probe_keeps_the_order_of_a_key_whose_first_event_was_committed_late(
    database: str, scripted: Script, doubted: DeliveryLoop
) -> None:
    """The first event is sent first, though a scan of all events went past its id."""
    with late_commit("c1", database):
        publish(f"a{BACKLOG}", using=database)
        doubted.owned.doubts.scan_again()
        doubted.turn(10)
    publish("c2", using=database)
    while doubted.turn(10).found_work:
        pass
    assert scripted.arrived[-2:] == ["c1", "c2"]


def test_a_probe_that_was_cut_off_goes_on_with_what_was_left_out(
    database: str,
    scripted: Script,
    join: Join,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Events that were too large for the batch of a probe are not taken for tried."""
    settings.OUTBOX_CIRCUIT = {"initial": 1e-9, "maximum": 1e-9, "probe_size": 10}
    monkeypatch.setattr(fetching, "FIRST_BYTES", 1)
    settings.OUTBOX_BATCH_BYTES = 1
    scripted.fail("*", AWAY)
    names = [f"{key}1" for key in "abcd"]
    publish(*names, using=database)
    loop = join()
    for _ in range(5):
        turn(loop)
    assert scripted.batches[1:5] == [["b1"], ["c1"], ["d1"], ["a1"]]


def test_a_delivery_that_was_settled_late_has_the_same_report(
    database: str, scripted: Script, doubted: DeliveryLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report says how many events were handed over, and that they had failed before."""
    doubted.circuit.succeeded()
    real = doubted.lease.end_delivery

    def fail() -> None:
        monkeypatch.setattr(doubted.lease, "end_delivery", real)
        raise OperationalError("the database is away")

    monkeypatch.setattr(doubted.lease, "end_delivery", fail)
    with pytest.raises(OperationalError):
        doubted.turn(10)
    report = doubted.settle_earlier()
    assert report is not None
    assert report.is_repeat
    assert report.handed == report.attempted > 0
