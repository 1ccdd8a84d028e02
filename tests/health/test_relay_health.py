"""A relay judges itself: what a restart would help, what only has to be waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connections, transaction

from django_broadcaster.backends import Message
from django_broadcaster.backends.base import MessageBackend
from django_broadcaster.exceptions import BackendUnavailable
from django_broadcaster.models import OutboxBackendState
from django_broadcaster.relay.backend_thread import BackendThread
from django_broadcaster.relay.health import Activity, Health, LoopState, RelayState, judge
from django_broadcaster.relay.pacemaker import Pacemaker
from django_broadcaster.store import pause
from tests.relay.conftest import SCRIPTED, Working, working
from tests.support.backends import Script, script
from tests.support.events import publish
from tests.support.own_servers import as_alias
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until
from tests.support.workers import place_of

if TYPE_CHECKING:
    from pytest_django import Settings

STALL = 1.0
WELL = LoopState(
    backend="default",
    doing="turning",
    silence=0.1,
    has_died=False,
    has_ended=False,
    lease_left=10.0,
    circuit_is_closed=True,
    is_paused=False,
    last_error="",
)
RELAY = RelayState(
    process=7,
    is_stopping=False,
    pacemaker_has_died=False,
    pacemaker_silence=0.1,
    loops=(WELL,),
)


def health_of(worker: Working, stall: float = STALL) -> Health:
    """Return the health of a relay that runs in this process."""
    return judge(worker.worker.state, stall)


def failing(health: Health) -> set[tuple[str, str | None]]:
    """Return the checks that failed, with their backends."""
    return {(check.name, check.backend) for check in health.failing}


@contextmanager
def gate(of: Script) -> Iterator[None]:
    """Let a backend hang in its batch for the time of the block, which begins once it does."""
    arrived, go_on = threading.Event(), threading.Event()

    def hang(messages: Any) -> list[None]:
        arrived.set()
        assert go_on.wait(30)
        return [None] * len(messages)

    of.answer = hang
    try:
        assert arrived.wait(20)
        yield
    finally:
        of.answer = None
        go_on.set()


def test_a_relay_that_works_is_live_and_ready() -> None:
    """Every check passes, and each says what it saw."""
    health = judge(RELAY, STALL)
    assert (health.is_live, health.is_ready, health.failing) == (True, True, ())
    assert all(check.detail for check in health.checks)


@pytest.mark.parametrize(
    ("change", "name", "live"),
    [
        ({"silence": 1.1}, "loop", False),
        ({"has_died": True, "has_ended": True}, "loop", False),
        ({"lease_left": 0.0}, "lease", True),
        ({"circuit_is_closed": False}, "broker", True),
        ({"last_error": "OperationalError"}, "turn", True),
    ],
    ids=["stalled", "died", "no lease", "no broker", "trouble"],
)
def test_only_what_a_restart_helps_ends_the_life_of_a_loop(
    change: dict[str, Any], name: str, live: bool
) -> None:
    """A hanging or dead thread is not live; a broker or database that is away is waited for."""
    health = judge(replace(RELAY, loops=(replace(WELL, **change),)), STALL)
    assert failing(health) == {(name, "default")}
    assert (health.is_live, health.is_ready) == (live, False)


@pytest.mark.parametrize("change", [{"is_paused": True}, {"has_ended": True}])
def test_what_was_asked_for_is_no_failure(change: dict[str, Any]) -> None:
    """A backend that an operator paused, and a loop that has come to its end, are well."""
    assert judge(replace(RELAY, loops=(replace(WELL, **change),)), STALL).is_ready


@pytest.mark.parametrize(
    ("change", "name", "live"),
    [
        ({"pacemaker_silence": 1.1}, "pacemaker", False),
        ({"pacemaker_has_died": True}, "pacemaker", False),
        ({"is_stopping": True}, "running", True),
    ],
)
def test_a_process_is_judged_as_a_whole(change: dict[str, Any], name: str, live: bool) -> None:
    """Without heartbeats it is not live; one that stops is, but takes no part any more."""
    health = judge(replace(RELAY, **change), STALL)
    assert failing(health) == {(name, None)}
    assert health.is_live == live


def test_a_pause_that_was_announced_is_no_silence() -> None:
    """Only the time beyond what a thread said it would wait counts."""
    now = [100.0]
    activity = Activity(clock=lambda: now[0])
    activity.begin("waiting", pause=10.0)
    now[0] = 109.0
    assert (activity.doing, activity.silence) == ("waiting", 0.0)
    now[0] = 112.5
    assert activity.silence == 2.5
    activity.go_on()
    assert (activity.doing, activity.silence) == ("waiting", 0.0)


def test_a_backend_that_hangs_is_a_stall_of_its_own(
    database: str, scripted: Script, settings: Settings
) -> None:
    """The relay of a backend that never answers turns not live by itself, others stay well."""
    settings.OUTBOX_PUBLISHERS = {alias: {"BACKEND": SCRIPTED} for alias in ("default", "other")}
    with working(database, "default", "other") as worker:
        wait_until(lambda: health_of(worker).is_ready, 20, "both backends to be joined")
        publish("a1", using=database)
        with gate(script()):
            wait_until(lambda: not health_of(worker).is_live, 20, "the stall to be noticed")
            assert failing(health_of(worker)) == {("loop", "default")}
            (check,) = health_of(worker).failing
            assert check.detail.startswith("delivering: no progress for")
        wait_until(lambda: health_of(worker).is_ready, 20, "it to be well again")


def test_a_batch_of_many_slow_events_is_no_stall(database: str, scripted: Script) -> None:
    """A backend that sends one by one shows between two events that it goes on."""
    told: list[str] = []

    class Slow(MessageBackend):
        def send(self, message: Message) -> None:
            told.append("publish")

    backend = Slow(alias="default")
    backend.on_progress = lambda: told.append("on")
    message = Message("1", "/s", "t", "", None, "", "", {}, None, None, "", {})
    assert backend.send_batch([message] * 2) == [None, None]
    assert told == ["on", "publish"] * 2
    with working(database) as worker:
        loop = worker.worker._threads[0]._loop
        loop.activity.begin("delivering", pause=-60.0)
        loop.broker.backend.on_progress()
        assert loop.activity.silence < 60.0


def test_a_broker_that_is_away_is_waited_for(database: str, scripted: Script) -> None:
    """The relay stays live, is not ready meanwhile, and is again when the broker is back."""
    scripted.fail("*", BackendUnavailable("away"))
    publish("a1", using=database)
    with working(database) as worker:
        wait_until(lambda: failing(health_of(worker)) == {("broker", "default")}, 20, "it is seen")
        assert health_of(worker).is_live
        scripted.heal()
        wait_until(lambda: health_of(worker).is_ready, 20, "it to be well again")


def test_a_paused_backend_is_well(database: str, scripted: Script) -> None:
    """An operator's pause is no trouble of the relay's."""
    pause(OutboxBackendState.objects.using(database).all(), "default")
    with working(database) as worker:
        loop = worker.worker._threads[0]._loop
        wait_until(lambda: loop.rounds.is_paused, 20, "the pause to be seen")
        wait_until(lambda: health_of(worker).is_ready, 20, "it to be well")


def test_a_thread_that_dies_ends_the_life_of_its_relay(
    database: str, scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody foresaw, and even the pacemaker's end, is not silent."""

    class Death(BaseException):
        pass

    def die(*_: object) -> None:
        raise Death

    with monkeypatch.context() as patch:
        patch.setattr(Pacemaker, "_go_on", die)
        with working(database) as worker:
            wait_until(lambda: ("pacemaker", None) in failing(health_of(worker)), 20, "its end")
            assert not health_of(worker).is_live

    monkeypatch.setattr(BackendThread, "_turn", die)
    with working(database, "default") as worker:
        wait_until(lambda: ("loop", "default") in failing(health_of(worker)), 20, "its end")
        assert not health_of(worker).is_live


def far_from(database: str) -> None:
    """Skip the test where there is no server to be far from."""
    if connections[database].vendor == "sqlite":
        pytest.skip("a file is never away")


def test_a_database_that_is_away_is_waited_for(
    database: str, scripted: Script, settings: Settings
) -> None:
    """Without it the lease can't be renewed: not ready, but live, as a restart would not help."""
    far_from(database)
    settings.OUTBOX_LEASE_SECONDS = 2
    place = place_of(database)
    with (
        TcpProxy(place["HOST"], int(place["PORT"])) as proxy,
        as_alias("far", {**place, "PORT": proxy.port}),
        working("far") as worker,
    ):
        wait_until(lambda: health_of(worker, 5).is_ready, 20, "it to be joined")
        with proxy.away():
            wait_until(
                lambda: ("lease", "default") in failing(health_of(worker, 5)), 20, "no lease"
            )
            health = health_of(worker, 5)
            assert health.is_live
            assert not any("password" in check.detail for check in health.checks)
        wait_until(lambda: health_of(worker, 5).is_ready, 30, "it to be well again")


def test_a_database_that_hangs_is_a_stall(database: str, scripted: Script) -> None:
    """Statements that never end hold up the pacemaker and the loop: a new process may get on."""
    if connections[database].vendor != "postgresql":
        pytest.skip("the others have no lock that keeps readers out")
    with working(database) as worker:
        wait_until(lambda: health_of(worker).is_ready, 20, "it to be joined")
        with transaction.atomic(using=database):
            with connections[database].cursor() as cursor:
                cursor.execute("LOCK TABLE django_broadcaster_outboxrelay IN ACCESS EXCLUSIVE MODE")
            publish("a1", using=database)
            deadline = time.monotonic() + 20
            while health_of(worker).is_live:
                assert time.monotonic() < deadline, "the stall is not noticed"
                time.sleep(0.05)
        wait_until(lambda: health_of(worker).is_ready, 20, "it to be well again")
