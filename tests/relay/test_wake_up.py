"""A relay that a publisher wakes: its delivery comes first, by statements whose plans are kept."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from django.db import OperationalError, connections

from django_broadcaster import notify
from django_broadcaster.conf import conf
from django_broadcaster.exceptions import TransientError
from django_broadcaster.relay import polling
from django_broadcaster.relay.loop import DeliveryLoop
from django_broadcaster.relay.rounds import FRESH_SECONDS, TICK_SECONDS
from django_broadcaster.store import keep_plans
from tests.publishers.statements import statements
from tests.support.backends import Script
from tests.support.clock import Clock
from tests.support.events import publish, row
from tests.support.waiting import wait_until

from .conftest import Join, turn, working

if TYPE_CHECKING:
    from pytest_django import Settings

WAIT = 30.0  # seconds, at the most

PAUSED = "SELECT 1 FROM django_broadcaster_outboxbackendstate"
"""The first statement of a round."""


def of_round(run: list[str]) -> list[str]:
    """Return the beginnings of the statements of a round; operations are polled after it."""
    return [sql.partition(" WHERE ")[0] for sql in run if "outboxoperation" not in sql]


def woken(loop: DeliveryLoop) -> list[str]:
    """Take a turn after a wake-up; return its statements."""
    with statements() as run:
        loop.turn(100, woken=True)
    return run


def test_a_wake_up_comes_before_rounds_that_are_due(
    database: str, scripted: Script, join: Join, clock: Clock
) -> None:
    """The turn delivers and leaves the round to the next one."""
    loop = join()
    turn(loop)
    clock.advance(TICK_SECONDS)
    publish("a1", using=database)
    assert not any(PAUSED in sql for sql in woken(loop))
    assert scripted.arrived == ["a1"]
    with statements() as run:
        loop.turn(100)
    assert PAUSED in run[0]


def test_a_wake_up_without_an_event_does_not_delay_a_round(
    database: str, scripted: Script, join: Join, clock: Clock
) -> None:
    """Other relays' events wake every relay of the backend, and rounds must go on meanwhile."""
    loop = join()
    turn(loop)
    clock.advance(TICK_SECONDS)
    assert any(PAUSED in sql for sql in woken(loop))


@pytest.mark.parametrize("error_in", ["rebalance", "reload"])
def test_nothing_is_delivered_after_an_error_until_the_partitions_are_read_again(
    database: str,
    scripted: Script,
    join: Join,
    monkeypatch: pytest.MonkeyPatch,
    error_in: str,
) -> None:
    """A round that failed is repeated, also by an idle relay that is woken for an event."""
    leaving, loop = join(), join()
    for each in (leaving, loop, leaving, loop):
        turn(each)
    scripted.fail("a1", TransientError("busy", retry_after=600))
    publish("a1", using=database)
    for each in (leaving, loop):
        turn(each)
    leaving.lease.leave()
    target: object = loop.lease if error_in == "rebalance" else loop.owned.blocked
    with monkeypatch.context() as patch:
        real = getattr(target, error_in)

        def fail(*args: Any) -> None:
            if error_in == "rebalance":
                real()  # the answer of its last statement was lost
            raise OperationalError("connection lost")

        patch.setattr(target, error_in, fail)
        with pytest.raises(OperationalError):
            loop.turn(100, idle=True)
    loop.forget()
    assert not loop.deliver(100).found_work
    loop.turn(100, idle=True)
    publish("a2", using=database)
    loop.turn(100, woken=True)
    assert scripted.arrived == []
    assert row("a2", database).status == "blocked"


@pytest.mark.parametrize("reason", ["late", "shares"])
def test_a_round_comes_first_if_it_is_late_or_wanted(
    database: str, scripted: Script, join: Join, clock: Clock, reason: str
) -> None:
    """A relay must not go on for long with partitions or a pause that it read long ago."""
    loop = join()
    turn(loop)
    if reason == "late":
        clock.advance(FRESH_SECONDS)
    else:
        loop.rounds.are_wanted.set()
    publish("a1", using=database)
    assert PAUSED in woken(loop)[0]
    assert scripted.arrived == ["a1"]


def test_a_round_makes_way_for_a_delivery_after_each_step(
    database: str, scripted: Script, join: Join, clock: Clock
) -> None:
    """The rest of it follows, until it is complete."""
    loop = join()
    turn(loop)
    with statements() as whole:
        clock.advance(2 * TICK_SECONDS)
        loop.do_rounds()
    loop.is_wanted = lambda: True
    clock.advance(2 * TICK_SECONDS)
    parts: list[list[str]] = []
    while not parts or parts[-1]:
        with statements() as part:
            loop.do_rounds()
        parts.append(part)
    assert of_round([sql for part in parts for sql in part]) == of_round(whole)
    assert len(parts) > 3


def test_a_worker_delivers_what_it_is_woken_for(database: str, scripted: Script) -> None:
    """Each event arrives, in order, while the relay polls too seldom to find one."""
    names = [f"a{number}" for number in range(20)]
    with working(database, interval=0.5 if connections[database].vendor != "postgresql" else 60.0):
        for number, name in enumerate(names, 1):
            publish(name, using=database)
            wait_until(lambda number=number: len(scripted.arrived) == number, 30, "the delivery")
    assert scripted.arrived == names


def plans(database: str) -> list[str]:
    """Return the statements whose plans the server keeps for the connection."""
    with connections[database].cursor() as cursor:
        cursor.execute("SELECT statement FROM pg_prepared_statements")
        return [statement for (statement,) in cursor.fetchall()]


@pytest.mark.parametrize("is_own", [True, False], ids=["own session", "maybe shared"])
def test_plans_are_kept_for_a_session_of_its_own(
    database: str, scripted: Script, join: Join, is_own: bool
) -> None:
    """The fetch and the heartbeat are planned once; a pooler's session would lack their plans."""
    if connections[database].vendor != "postgresql":
        pytest.skip("only PostgreSQL has prepared statements")
    connections[database].close()
    loop = join()
    if is_own:
        connections[database].ensure_connection()
        keep_plans(connections[database])
    for number in range(20):
        publish(f"a{number}", using=database)
        loop.turn(100)
    assert len(scripted.arrived) == 20
    kept = " ".join(plans(database))
    assert ("FROM django_broadcaster_outboxevent" in kept) is is_own
    assert ("UPDATE django_broadcaster_outboxrelay" in kept) is is_own
    connections[database].close()


def test_events_of_this_process_wake_its_relay(
    database: str, scripted: Script, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    """What a receiver writes, or a handler publishes, waits for no poll, on every database."""
    monkeypatch.setattr(polling, "FIRST_PAUSE", 600.0)
    monkeypatch.setattr(notify, "COALESCE_SECONDS", 0.0)
    settings.OUTBOX_NOTIFY = False
    with working(database, interval=600.0) as running:
        loop = running.worker._loops[0]
        for number in range(3):
            wait_until(lambda: loop.state.doing == "waiting for events", WAIT, "the relay waits")
            publish(f"a{number}", using=database)
            wait_until(
                lambda count=number + 1: len(scripted.arrived) == count, WAIT, "the event arrives"
            )
    assert scripted.arrived == ["a0", "a1", "a2"]


def test_fast_polls_follow_a_wake_up_that_came_during_a_turn() -> None:
    """A second event of the same moment wakes no relay, so a poll has to find it."""
    poll = polling.Poll(600.0)
    while not poll.is_idle:
        poll._backoff.next()
    poll.wake.set()
    assert poll.take_wake()
    assert not poll.is_idle


def test_a_relay_that_delivers_everything_is_woken_without_a_statement(
    database: str, scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relays of other processes are woken as well if they deliver a part, and afterwards."""
    monkeypatch.setattr(notify, "COALESCE_SECONDS", 0.0)
    woken_here: list[bool] = []

    def notifies(name: str) -> int:
        with statements() as run:
            publish(name, using=database)
        return sum(sql.startswith("NOTIFY ") for sql in run)

    def wake() -> bool:
        woken_here.append(True)
        return is_alone

    is_alone = True
    others = int(connections[database].vendor == "postgresql")
    with notify.waking(database, "default", wake):
        assert (notifies("a1"), len(woken_here)) == (0, 1)
        is_alone = False
        assert (notifies("a2"), len(woken_here)) == (others, 2)
    assert (notifies("a3"), len(woken_here)) == (others, 2)


def test_a_relay_with_a_part_of_the_partitions_wakes_the_others(
    database: str, scripted: Script, join: Join
) -> None:
    """Another relay has the other half, in whatever process."""
    other = join()
    with working(database, interval=600.0) as running:
        thread = running.worker._loops[0]

        def is_shared() -> bool:
            turn(other)
            return 0 < len(other.lease.partitions) < conf.PARTITIONS

        wait_until(is_shared, WAIT, "both have partitions")
        assert not thread._wake_for_event()
    wait_until(lambda: turn(other) and len(other.lease.partitions) == conf.PARTITIONS, WAIT, "all")


def test_a_forked_process_wakes_no_relay_of_its_parent() -> None:
    """The threads stay in the parent, so the child sends a NOTIFY."""
    script = (
        "import os\n"
        "from django_broadcaster import notify\n"
        "with notify.waking('default', 'default', lambda: True):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        os._exit(len(notify._here))\n"
        "    assert len(notify._here) == 1\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=WAIT)
