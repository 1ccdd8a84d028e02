"""Order and completeness while other transactions are open: ids do not commit in their order."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from django.db import connections, transaction

from django_broadcaster.exceptions import BackendUnavailable, TransientError
from django_broadcaster.models import OutboxEvent
from django_broadcaster.relay import watermark
from tests.support.backends import Script
from tests.support.databases import SERVERS
from tests.support.events import first_arrivals, publish, row, statuses
from tests.support.waiting import wait_until

from .conftest import Join, drain, turn

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.parametrize(
    "database",
    SERVERS,
    indirect=True,
)


@pytest.fixture(autouse=True)
def _eager_watermark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let relays skip what is delivered as soon as they may, not only in a long backlog."""
    monkeypatch.setattr(watermark, "WORTH_CHECKING", 0)


@contextmanager
def uncommitted(database: str, *names: str) -> Iterator[Callable[[], None]]:
    """Publish in a transaction of another connection; yields a function that commits it."""
    published, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            with transaction.atomic(using=database):
                publish(*names, using=database)
                published.set()
                assert go_on.wait(30)
        finally:
            connections.close_all()

    thread = threading.Thread(target=hold)
    thread.start()
    assert published.wait(30)

    def commit() -> None:
        go_on.set()
        thread.join(30)

    try:
        yield commit
    finally:
        commit()


def test_an_event_that_commits_late_is_not_lost(
    database: str, scripted: Script, join: Join
) -> None:
    """A lower id that commits after a higher one was delivered is delivered, and before the next.

    The third event was published when the first had committed, so it has to come after it.
    """
    loop = join()
    with uncommitted(database, "a1") as commit:
        publish("a2", using=database)
        drain(loop)
        assert scripted.arrived == ["a2"]
        commit()
    publish("a3", using=database)
    loop.turn(100)
    assert scripted.arrived == ["a2", "a1", "a3"]


def test_a_late_commit_behind_the_watermarks_back_does_not_happen(
    database: str, scripted: Script, join: Join
) -> None:
    """While fetches skip what is delivered, they never skip an id that another session may commit.

    It is delivered when it does, before the next of its key, and then the mark moves on.
    """
    moves = connections[database].vendor == "postgresql"
    loop = join()

    def go_on(*names: str) -> int:
        """Publish, let the relay do what there is, and return where its fetches start."""
        publish(*names, using=database)
        for _ in range(4):
            loop.turn(100)
        return loop.owned.watermark.start

    assert (go_on("x1", "x2") > 0) is moves
    with uncommitted(database, "a1") as first, uncommitted(database, "b1") as second:
        before = go_on("a2", "b2")
        after = [go_on(f"a{number}", f"c{number}") for number in range(3, 20)]
        assert {before, *after} == {before}, "it passed a transaction that had not ended"
        second()
        assert go_on("b3") == before
        first()
        publish("a20", using=database)
        loop.turn(100)
    assert scripted.arrived[-4:] == ["b1", "b3", "a1", "a20"]
    assert before <= row("a1", database).pk < row("a2", database).pk
    if moves:
        assert 0 < before < row("a20", database).pk < go_on("x3")


def test_a_late_event_is_found_behind_much_that_is_delivered(
    database: str, scripted: Script, join: Join
) -> None:
    """However much is delivered meanwhile, in however many batches, the late one is found."""
    loop = join()
    with uncommitted(database, "a1") as commit:
        for number in range(30):
            publish(f"b{number}", f"c{number}", using=database)
            loop.turn(1 + number % 3)
        while loop.turn(5).found_work:
            pass
        for _ in range(3):
            loop.turn(5)
        commit()
    publish("a2", using=database)
    report = loop.turn(5)
    assert report.published == 2
    assert scripted.arrived[-2:] == ["a1", "a2"]


def test_several_late_events_come_when_they_commit(
    database: str, scripted: Script, join: Join
) -> None:
    """Transactions that began one after the other may end in any order."""
    loop = join()
    with uncommitted(database, "a1") as first, uncommitted(database, "b1") as second:
        publish("c1", using=database)
        loop.turn(100)
        second()
        loop.turn(100)
        with uncommitted(database, "d1") as third:
            publish("e1", using=database)
            for _ in range(3):
                loop.turn(100)
            first()
            loop.turn(100)
            for _ in range(3):
                loop.turn(100)
            third()
        loop.turn(100)
    assert scripted.arrived == ["c1", "b1", "e1", "a1", "d1"]


@pytest.mark.parametrize("kept", [watermark.MOST_AGAIN, 0], ids=["by its id", "among many"])
def test_a_retry_far_behind_is_found(
    database: str, scripted: Script, join: Join, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event whose retry comes due when all around it is delivered is delivered."""
    monkeypatch.setattr(watermark, "MOST_AGAIN", kept)
    scripted.fail("a1", TransientError("busy"), times=1)
    publish("a1", "a2", using=database)
    loop = join()
    loop.turn(100)
    for number in range(10):
        publish(f"b{number}", using=database)
        loop.turn(100)
    OutboxEvent.objects.using(database).hasten()
    loop.rounds.are_wanted.set()  # due, but nothing that the relay remembers is forgotten
    while loop.turn(100).found_work:
        pass
    assert scripted.arrived[-2:] == ["a1", "a2"]


def test_an_idle_relay_remembers_a_retry_that_met_an_outage(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """A retry that came due while the broker was away goes out soon after the broker is back."""
    settings.OUTBOX_CIRCUIT = {"initial": 0.01, "maximum": 0.01}
    scripted.fail("a1", TransientError("busy"), times=1)
    publish("a1", using=database)
    loop = join()
    for number in range(4):
        publish(f"b{number}", using=database)
        loop.turn(100)
    scripted.fail("a1", BackendUnavailable("away"))
    OutboxEvent.objects.using(database).hasten()
    loop.rounds.are_wanted.set()
    assert loop.turn(100).unavailable
    scripted.heal()

    def arrived() -> bool:
        loop.turn(100, idle=True)
        return scripted.arrived[-1] == "a1"

    wait_until(arrived, loop.lease.seconds / 4, "the retry")


def test_events_under_many_writers_arrive_once_and_in_order(
    database: str, scripted: Script, join: Join
) -> None:
    """With writers that overlap, commit late and roll back, what committed arrives, in order."""
    committed: dict[str, list[str]] = {}
    failures: list[BaseException] = []
    done = threading.Event()

    def write(key: str, chance: random.Random) -> None:
        try:
            for number in range(40):
                name = f"{key}{number}"
                try:
                    with transaction.atomic(using=database):
                        publish(name, using=database)
                        done.wait(chance.choice([0, 0, 0.001, 0.01]))
                        if chance.random() < 0.2:
                            raise RollBack
                except RollBack:
                    continue
                committed.setdefault(key, []).append(name)
        except BaseException as error:
            failures.append(error)
        finally:
            connections.close_all()

    loop = join()
    turn(loop)
    writers = [threading.Thread(target=write, args=[key, random.Random(key)]) for key in "abcdefgh"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        loop.turn(7)
    assert failures == []

    def delivered() -> bool:
        loop.turn(100)
        return set(statuses(database).values()) == {"published"}

    wait_until(delivered, 10, "every committed event")
    assert first_arrivals(scripted.arrived) == committed
    assert len(scripted.arrived) == len(set(scripted.arrived))


class RollBack(Exception):
    """The writer changes its mind."""


@pytest.mark.parametrize("why", ["the broker goes away", "some are cancelled"])
def test_retries_that_are_due_at_once_are_not_overtaken(
    database: str, scripted: Script, join: Join, settings: Settings, why: str
) -> None:
    """More rows are pending again than a batch has: nothing new goes before all were looked at."""
    settings.OUTBOX_CIRCUIT = {"initial": 0.01, "maximum": 0.01}
    for name in ("x1", "y1", "k1"):
        scripted.fail(name, TransientError("busy"), times=1)
    publish("x1", "y1", "k1", using=database)
    loop = join()
    for number in range(6):  # until the start is behind them
        publish(f"b{number}", using=database)
        loop.turn(100)
    events = OutboxEvent.objects.using(database)
    events.hasten()
    loop.rounds.are_wanted.set()
    if why == "some are cancelled":
        loop.do_rounds()
        events.filter(subject__in=["x1", "y1"]).cancel()
    else:
        scripted.fail("y1", BackendUnavailable("away"), times=1)
        loop.turn(2)
    publish("k2", using=database)

    def arrived() -> bool:
        loop.turn(2)
        return "k2" in scripted.arrived

    wait_until(arrived, 10, "the later event")
    assert scripted.arrived.index("k1") < scripted.arrived.index("k2")
