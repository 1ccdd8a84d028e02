"""Connections that the server ended while nobody used them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connections, transaction

from django_broadcaster import idle_connections
from django_broadcaster.events import CloudEvent
from django_broadcaster.idle_connections import check_connections
from django_broadcaster.inbox import dispatch
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.registry import EventHandlerRegistry, event_registry
from django_broadcaster.relay.separate_thread import SeparateThread
from tests.app.models import Order
from tests.publishers.statements import statements
from tests.relay.conftest import working
from tests.support.databases import SERVERS
from tests.support.own_servers import as_alias
from tests.support.routing import OneDatabase
from tests.support.waiting import wait_until
from tests.test_inbox import EVENT, orders

if TYPE_CHECKING:
    from pytest_django import Settings

LOCAL = "django_broadcaster.backends.LocalBackend"

pytestmark = pytest.mark.parametrize("database", SERVERS, indirect=True)


@pytest.fixture(autouse=True)
def _look_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at connections before each handler, as after a second without one."""
    monkeypatch.setattr(idle_connections, "LOOK_SECONDS", 0.0)


@pytest.fixture
def routed(database: str, settings: Settings) -> str:
    """As `database`, and everything that names no database goes there."""
    settings.DATABASE_ROUTERS = [OneDatabase(database)]
    return database


@pytest.fixture
def legacy(database: str) -> Iterator[str]:
    """The database once more, as an alias that only handlers use."""
    with as_alias("legacy", connections[database].settings_dict) as alias:
        yield alias


def session(database: str) -> int:
    """Return the number of the calling thread's session on the server."""
    sql = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}
    with connections[database].cursor() as cursor:
        cursor.execute(sql[connections[database].vendor])
        return int(cursor.fetchone()[0])


def end(database: str, number: int) -> None:
    """End a session, as a server does with one that was idle for long."""
    is_postgres = connections[database].vendor == "postgresql"
    with closing(connections[database].copy()) as other, other.cursor() as cursor:
        if is_postgres:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [number])
            return
        cursor.execute(f"KILL CONNECTION {number}")
        sql = "SELECT 1 FROM information_schema.processlist WHERE id = %s"
        wait_until(lambda: not cursor.execute(sql, [number]), 5, "the end of the session")


def test_consumer_goes_on_after_the_server_ended_its_session(routed: str) -> None:
    """`dispatch` in a loop of one's own works on a new connection."""
    registry = EventHandlerRegistry()

    @registry.register("order.*")
    def write(event: CloudEvent) -> None:
        Order.objects.using(routed).create(number=event.id)

    for number in range(3):
        dispatch(EVENT.replace(id=str(number)), registry)
        if number < 2:
            end(routed, session(routed))
    assert orders(routed) == ["0", "1", "2"]


def test_second_database_of_a_handler(routed: str, legacy: str, settings: Settings) -> None:
    """A relay's handler that uses another database finds a connection that works."""
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": LOCAL}}
    sessions: list[int] = []

    def look(event: CloudEvent) -> None:
        sessions.append(session(legacy))

    event_registry.register("order.*", name="look")(look)
    try:
        with working(routed):
            for number in range(3):
                publisher.publish_event("order.placed", "/shop", max_retries=0, using=routed)
                wait_until(lambda n=number: len(sessions) > n, 20, "the handler")  # type: ignore[misc]
                end(legacy, sessions[-1])
            wait_until(lambda: _published(routed), 20, "the delivery")
    finally:
        event_registry.unregister("look")
    assert len(set(sessions)) == 3


def _published(database: str) -> bool:
    events = OutboxEvent.objects.using(database)
    return not events.exclude(status="published").exists()


def test_connection_in_a_transaction_is_left_alone(database: str) -> None:
    """The caller's transaction goes on, whatever is dispatched in it."""
    with transaction.atomic(using=database):
        Order.objects.using(database).create(number="before")
        check_connections()
        with statements() as run:
            Order.objects.using(database).create(number="after")
    assert len(run) == 1
    assert orders(database) == ["before", "after"]


def test_looking_costs_one_round_trip_a_second(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the second, connections are trusted."""
    monkeypatch.setattr(idle_connections, "LOOK_SECONDS", 3600.0)
    monkeypatch.setattr(idle_connections, "_looked", threading.local())
    asked: list[int] = []
    connection = connections[database]
    session(database)

    def is_usable() -> bool:
        asked.append(1)
        return True

    monkeypatch.setattr(connection, "is_usable", is_usable)
    for _ in range(3):
        check_connections()
        session(database)
    assert len(asked) == 1


def test_code_in_a_separate_thread_costs_no_further_look(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Django itself would check each connection at every call."""
    monkeypatch.setattr(idle_connections, "LOOK_SECONDS", 3600.0)
    asked: list[int] = []

    def is_usable(_: Any) -> bool:
        asked.append(1)
        return True

    monkeypatch.setattr(type(connections[database]), "is_usable", is_usable)
    thread = SeparateThread("apart")
    for _ in range(4):
        thread.run(session, database)
    thread.end()
    assert len(asked) <= 1
