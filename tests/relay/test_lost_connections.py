"""A connection ends before or behind any statement: nothing is lost, and nothing repeated."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_broadcaster import backoff, notify
from django_broadcaster.backends import Message, Outcome
from django_broadcaster.exceptions import Rejected, TransientError
from django_broadcaster.models import OutboxEvent, OutboxPartition
from django_broadcaster.relay import backend_thread, rounds
from django_broadcaster.relay.backend_thread import BackendThread, WorkerOptions
from tests.support.backends import Script
from tests.support.databases import SERVERS
from tests.support.events import publish
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.chaos


REST = 10
"""Statements between two losses: at its end, a relay tries no more than twice."""


class Assassin:
    """An execute wrapper that ends the connection before or behind a statement of a new kind.

    `struck` are the kinds that have been, in which it writes. Behind a statement means that it has
    been carried out, and that its answer does not arrive.
    """

    def __init__(self, database: str, when: str, struck: set[str]) -> None:
        self.has_struck = False
        self._rest = 0
        self._when = when
        self._struck = struck
        self._own = connections[database].copy()

    def __call__(
        self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any
    ) -> Any:
        """Carry a statement out, or not."""
        kind = re.sub(r"(%s|\(%s\)|, )+", "%s", sql)  # however many values there are
        self._rest -= 1
        if kind in self._struck or self._rest > 0:
            return execute(sql, params, many, context)
        self._rest = REST
        self.has_struck = True
        self._struck.add(kind)
        if self._when == "behind":
            execute(sql, params, many, context)
        self._end(context["connection"])
        return execute("SELECT 1", None, False, context)

    def _end(self, victim: BaseDatabaseWrapper) -> None:
        with self._own.cursor() as cursor:
            if victim.vendor == "postgresql":
                pid = victim.connection.info.backend_pid
                cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
                return
            number = victim.connection.thread_id()
            cursor.execute(f"KILL CONNECTION {number}")
            sql = "SELECT 1 FROM information_schema.processlist WHERE id = %s"
            wait_until(lambda: not cursor.execute(sql, [number]), 5, "the end of the connection")

    def close(self) -> None:
        """Close its own connection."""
        self._own.close()


@pytest.fixture(autouse=True)
def _prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Go on at once after trouble, and look for what is due in each turn."""
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(rounds, "TICK_SECONDS", 0.0)
    monkeypatch.setattr(backend_thread, "DRAIN_FAILURES", 100)


def drain(database: str) -> None:
    """Deliver what is due, as a worker's thread does, in this thread; at most so many turns."""
    options = WorkerOptions(
        database=database,
        backends=["default"],
        batch_size=10,
        interval=0.01,
        max_iterations=300,
        drain=True,
    )
    BackendThread(options, "default").run()


OUTCOME = {
    "a1": ("published", 1),
    "a2": ("published", 0),
    "b1": ("published", 0),
    "c1": ("failed", 0),
    "c2": ("published", 0),
    "-1": ("published", 0),
}
"""What becomes of the events: their states, and the retries that were spent."""


def publish_troubled(scripted: Script, database: str) -> None:
    """Publish events of which one fails at first, and one for good, each with one behind it."""
    scripted.heal()
    scripted.arrived.clear()
    scripted.fail("a1", TransientError("busy"), times=1)
    scripted.fail("c1", Rejected("no"))
    publish(*OUTCOME, using=database)


def states(database: str) -> dict[str, tuple[str, int]]:
    """Return the state of each event, and the retries that were spent."""
    rows = OutboxEvent.objects.using(database).values_list("subject", "status", "retry_count")
    return {name: (status, retries) for name, status, retries in rows}


@pytest.mark.parametrize("when", ["before", "behind"])
@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_a_connection_that_ends_at_any_statement(
    database: str,
    scripted: Script,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    when: str,
) -> None:
    """Each event is sent as often as without the loss, in order, and its state is as without it."""
    settings.OUTBOX_RETRY = {"initial": 1e-6, "factor": 2.0, "jitter": 0.0}
    settings.OUTBOX_LEASE_SECONDS = 600  # nothing is to wait for the end of a lease
    struck: set[str] = set()
    goes_on = True
    while goes_on:
        OutboxEvent.objects.using(database).all()._raw_delete(database)
        publish_troubled(scripted, database)
        with (
            closing(Assassin(database, when, struck)) as assassin,
            connections[database].execute_wrapper(assassin),
        ):
            drain(database)
        goes_on = assassin.has_struck
        assert states(database) == OUTCOME, sorted(struck)
        assert sorted(scripted.arrived) == ["-1", "a1", "a2", "b1", "c2"], sorted(struck)
        assert scripted.arrived.index("a1") < scripted.arrived.index("a2"), sorted(struck)
        assert not OutboxPartition.objects.using(database).filter(relay__isnull=False).exists()
    assert len(struck) > 25
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("closed", ["connection", "cursor"])
def test_what_somebody_else_closed_is_opened_again(
    database: str, scripted: Script, caplog: pytest.LogCaptureFixture, closed: str
) -> None:
    """Whatever the driver calls it then, also where closing once more is an error, it goes on."""
    publish("a1", "a2", using=database)
    of_relay = connections[database]  # the relay runs in this thread, and its backend in another

    def answer(messages: Sequence[Message]) -> list[Outcome]:
        scripted.arrived += [message.subject for message in messages]
        if closed == "connection":
            of_relay.connection.close()
        return [None] * len(messages)

    def close_cursor(
        execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any
    ) -> Any:
        if scripted.arrived and not caplog.messages:
            context["cursor"].cursor.close()
        return execute(sql, params, many, context)

    scripted.answer = answer
    with connections[database].execute_wrapper(close_cursor if closed == "cursor" else passing):
        drain(database)
    assert states(database) == {"a1": ("published", 0), "a2": ("published", 0)}
    assert scripted.arrived == ["a1", "a2"]
    assert any("retrying in" in message for message in caplog.messages)
    assert "Traceback" not in caplog.text


def passing(execute: Callable[..., Any], *arguments: Any) -> Any:
    """An execute wrapper that does nothing."""
    return execute(*arguments)


def test_a_commit_is_one_although_nobody_can_be_woken(
    committing: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that is lost behind the commit fails no call, and keeps back no other hook."""
    if connections["default"].vendor != "postgresql":
        pytest.skip("needs PostgreSQL")
    monkeypatch.setattr(notify, "_sent", {})  # so that this one is sent
    calls: list[str] = []

    def lose(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("NOTIFY "):
            with closing(connections["default"].copy()) as other, other.cursor() as cursor:
                pid = context["connection"].connection.info.backend_pid
                cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        return execute(sql, params, many, context)

    with connections["default"].execute_wrapper(lose), transaction.atomic():
        publish("a1", using="default")
        transaction.on_commit(lambda: calls.append("another"))
    connections["default"].close()
    assert states("default") == {"a1": ("pending", 0)}
    assert calls == ["another"]
    assert "Could not wake the relay" in caplog.text
    assert "Traceback" not in caplog.text
