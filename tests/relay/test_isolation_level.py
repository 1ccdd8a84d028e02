"""A session at READ UNCOMMITTED: what may still be rolled back is not delivered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import pytest
from django.db import OperationalError, connections, transaction

from django_broadcaster.backends import Message
from django_broadcaster.publishers import publisher
from tests.support.backends import Script
from tests.support.databases import SERVERS
from tests.support.events import publish, statuses
from tests.support.own_servers import as_alias
from tests.support.routing import OneDatabase
from tests.support.waiting import wait_until

from .conftest import working

if TYPE_CHECKING:
    from pytest_django import Settings


@pytest.fixture(params=["by the settings", "by the server"])
def dirty(database: str, request: pytest.FixtureRequest, settings: Settings) -> Iterator[str]:
    """An alias whose sessions read what has not committed, where the database lets them."""
    known: dict[str, Any] = dict(connections[database].settings_dict)
    level: Any = "read uncommitted"
    options = {**known["OPTIONS"], "isolation_level": level}
    if connections[database].vendor == "postgresql":
        from psycopg import IsolationLevel

        options["isolation_level"] = IsolationLevel.READ_UNCOMMITTED
    elif request.param == "by the server":
        options["isolation_level"] = None
        options["init_command"] = "SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED"
    with as_alias("dirty", {**known, "OPTIONS": options}) as alias:
        settings.DATABASE_ROUTERS = [OneDatabase(alias)]
        yield alias


def level_of(alias: str) -> str:
    """Return the isolation level of the test's own session."""
    sql = {
        "postgresql": "SHOW transaction_isolation",
        "mysql": "SHOW SESSION VARIABLES LIKE 'tx_isolation'",
    }[connections[alias].vendor]
    with connections[alias].cursor() as cursor:
        cursor.execute(sql)
        return str(cursor.fetchone()[-1]).lower().replace("-", " ")


@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_what_is_rolled_back_is_not_delivered(database: str, dirty: str, scripted: Script) -> None:
    """A worker leaves an open transaction's event alone, also after its session has ended."""
    with working(dirty):
        publish("a1", using=dirty)
        wait_until(lambda: scripted.arrived == ["a1"], 20, "the relay at work")
        with transaction.atomic(using=dirty):
            publish("b1", using=dirty)
            publish("c1", using=database)
            wait_until(lambda: "c1" in scripted.arrived, 20, "a look at the outbox")
            transaction.set_rollback(True, using=dirty)
        end_sessions(database)
        publish("d1", using=database)
        wait_until(lambda: "d1" in scripted.arrived, 20, "a delivery on a new session")
        with transaction.atomic(using=dirty):
            publish("e1", using=dirty)
            publish("f1", using=database)
            wait_until(lambda: "f1" in scripted.arrived, 20, "a look at the outbox")
            transaction.set_rollback(True, using=dirty)
    assert scripted.arrived == ["a1", "c1", "d1", "f1"]


def end_sessions(database: str) -> None:
    """End all other sessions on the test's database, as an administrator would."""
    connections["dirty"].close()
    with connections[database].cursor() as cursor:
        if connections[database].vendor == "postgresql":
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            return
        cursor.execute(
            "SELECT id FROM information_schema.processlist "
            "WHERE db = DATABASE() AND id <> CONNECTION_ID()"
        )
        for (number,) in cursor.fetchall():
            with suppress(OperationalError):  # it has ended by itself meanwhile
                cursor.execute("KILL CONNECTION %s", [number])


@contextmanager
def open_elsewhere(database: str) -> Iterator[None]:
    """Let another thread have published an event in a transaction that is open."""
    written, ended = Event(), Event()

    def write() -> None:
        with transaction.atomic(using=database):
            publish("a1", using=database)
            written.set()
            ended.wait(60)
        connections[database].close()

    thread = Thread(target=write)
    thread.start()
    try:
        assert written.wait(20)
        yield
    finally:
        ended.set()
        thread.join(20)


@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_a_caller_keeps_its_isolation_level(database: str, dirty: str, scripted: Script) -> None:
    """`process_pending_events` delivers what has committed, and leaves the session as it was."""
    before = level_of(dirty)
    with open_elsewhere(database):
        assert publisher.process_pending_events() == 0
    assert publisher.process_pending_events() == 1
    assert statuses(database) == {"a1": "published"}
    assert level_of(dirty) == before


@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_a_call_within_a_delivery_keeps_the_level_of_the_delivery(
    database: str, dirty: str, scripted: Script
) -> None:
    """A backend or handler that delivers by itself leaves the level for the rest of the batch."""
    before, levels = level_of(dirty), []

    def deliver(messages: Sequence[Message]) -> list[None]:
        levels.append(level_of(dirty))
        publisher.process_pending_events()
        levels.append(level_of(dirty))
        return [None] * len(messages)

    scripted.answer = deliver  # type: ignore[assignment]
    publish("a1", using=database)
    assert publisher.process_pending_events() == 1
    assert levels[0] == levels[1]
    assert level_of(dirty) == before
