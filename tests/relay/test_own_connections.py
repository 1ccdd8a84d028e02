"""The relay works on connections that handlers, backends and signal receivers cannot reach."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connection as default
from django.db import connections, transaction

from django_broadcaster.backends import Message, Outcome, RedisStreamBackend
from django_broadcaster.events import CloudEvent
from django_broadcaster.models import OutboxEvent, OutboxRelay
from django_broadcaster.publishers import publisher
from django_broadcaster.registry import event_registry
from django_broadcaster.relay.loop import DeliveryLoop
from django_broadcaster.relay.separate_thread import SeparateThread
from django_broadcaster.signals import batch_settled, event_published
from django_broadcaster.store import RelayRows
from tests.app.models import Order
from tests.support.backends import Script
from tests.support.databases import SERVERS
from tests.support.events import publish, statuses
from tests.support.own_servers import as_alias
from tests.support.routing import OneDatabase
from tests.support.waiting import wait_until
from tools import services

from .conftest import working

if TYPE_CHECKING:
    from pytest_django import Settings

SECONDS = 20.0
LOCAL = "django_broadcaster.backends.LocalBackend"
TABLES = (
    "outboxevent",
    "outboxrelay",
    "outboxpartition",
    "inboxevent",
    "outboxattempt",
    "outboxbackendstate",
    "outboxsample",
    "outboxoperation",
)


def all_published(database: str) -> bool:
    """Return True if every event of the database is published."""
    return set(statuses(database).values()) == {"published"}


def execute(database: str, sql: str) -> list[Any]:
    """Run a statement on the calling thread's connection; return the rows, if there are any."""
    with connections[database].cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []


class OtherOutbox:
    """A second outbox on the server, in a schema (on MariaDB a database) of its own.

    `visit` is the statement that leads a session there.
    """

    def __init__(self, database: str) -> None:
        self._database = database
        is_postgres = connections[database].vendor == "postgresql"
        self._kind = "SCHEMA" if is_postgres else "DATABASE"
        self.name = f"{connections[database].settings_dict['NAME']}_other"
        self._like = "(LIKE {} INCLUDING ALL)" if is_postgres else "LIKE {}"
        self.visit = f"SET search_path TO {self.name}" if is_postgres else f"USE {self.name}"
        home = connections[database].settings_dict["NAME"]
        self.return_home = "RESET search_path" if is_postgres else f"USE {home}"

    def create(self) -> None:
        """Make its tables."""
        self.drop()
        execute(self._database, f"CREATE {self._kind} {self.name}")
        for table in TABLES:
            name = f"django_broadcaster_{table}"
            execute(self._database, f"CREATE TABLE {self.name}.{name} {self._like.format(name)}")

    def copy_events(self) -> None:
        """Put the events of the first outbox into it, with the ids that they have."""
        table = "django_broadcaster_outboxevent"
        copy = f"INSERT INTO {self.name}.{table} SELECT * FROM {table}"  # noqa: S608
        execute(self._database, copy)

    def drop(self) -> None:
        """Remove it."""
        cascade = " CASCADE" if self._kind == "SCHEMA" else ""
        execute(self._database, f"DROP {self._kind} IF EXISTS {self.name}{cascade}")

    def states(self) -> list[str]:
        """Return the states of its events."""
        sql = f"SELECT status FROM {self.name}.django_broadcaster_outboxevent ORDER BY id"  # noqa: S608
        return [status for (status,) in execute(self._database, sql)]

    def relays(self) -> list[int]:
        """Return the ids of its leases."""
        sql = f"SELECT id FROM {self.name}.django_broadcaster_outboxrelay ORDER BY id"  # noqa: S608
        return [pk for (pk,) in execute(self._database, sql)]

    def add_relay(self, pk: int) -> None:
        """Add a lease with that id."""
        columns = "id, name, backend, takes_share, started_at, heartbeat_at, circuit_error"
        values = f"{pk}, 'other', 'default', true, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, ''"
        table = f"{self.name}.django_broadcaster_outboxrelay"
        sql = f"INSERT INTO {table} ({columns}) VALUES ({values})"  # noqa: S608
        execute(self._database, sql)


@pytest.fixture
def other(database: str) -> Iterator[OtherOutbox]:
    """A second, empty outbox beside the one of the test."""
    outbox = OtherOutbox(database)
    outbox.create()
    yield outbox
    execute(database, outbox.return_home)
    outbox.drop()


@contextmanager
def handling(name: str, function: Callable[[CloudEvent], object]) -> Iterator[None]:
    """Let a function handle the events of every type."""
    event_registry.register("*", name=name)(function)
    try:
        yield
    finally:
        event_registry.unregister(name)


@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_handler_cannot_lead_the_relay_to_another_outbox(
    routed: str, other: OtherOutbox, settings: Settings
) -> None:
    """A handler that leaves its session in another schema changes nothing for the relay."""
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": LOCAL}}
    publish("a1", "a2", "b1", using=routed)
    other.copy_events()
    with (
        handling("visit", lambda event: execute(routed, other.visit)),
        working(routed, batch_size=1),
    ):
        wait_until(lambda: all_published(routed), SECONDS, "the delivery")
    assert other.states() == ["pending"] * 3
    assert other.relays() == []


@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_visitor_that_a_handler_leads_to_another_outbox_settles_nothing_there(
    routed: str, other: OtherOutbox, settings: Settings
) -> None:
    """`process_pending_events` runs handlers on its own session, and its lease is unknown there."""
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": LOCAL}}
    publish("a1", "a2", using=routed)
    other.copy_events()
    last = OutboxRelay.objects.using(routed).create(
        name="last",
        backend="gone",
        started_at="2026-01-01T00:00Z",
        heartbeat_at="2026-01-01T00:00Z",
    )
    theirs = [last.pk + number for number in range(10)]  # the next ids, were they counted
    for pk in theirs:
        other.add_relay(pk)
    with handling("visit", lambda event: execute(routed, other.visit)):
        publisher.process_pending_events()
    execute(routed, other.return_home)
    assert other.states() == ["pending"] * 2
    assert other.relays() == theirs


def test_no_two_leases_have_one_id(database: str, join: Callable[..., Any]) -> None:
    """A lease's id is not counted: no statement that names it finds one of another outbox."""
    ids = [join().lease.id for _ in range(3)]
    assert ids == sorted(ids)
    assert all(later - earlier > 1 for earlier, later in pairwise(ids))
    publish("a1", using=database)
    (event,) = OutboxEvent.objects.using(database)
    assert RelayRows(database, "default", ids[-1] + 1).mark_published([event.pk], keep=True) == 0
    assert RelayRows(database, "default", ids[-1]).mark_published([event.pk], keep=True) == 1


def _autocommit_off(database: str) -> None:
    connections[database].set_autocommit(False)
    list(Order.objects.using(database).all())


def _open_block(database: str) -> None:
    transaction.atomic(using=database).__enter__()
    Order.objects.using(database).create(number="never committed")


def _read_only(database: str) -> None:
    execute(
        database,
        {
            "postgresql": "SET default_transaction_read_only = on",
            "mysql": "SET SESSION TRANSACTION READ ONLY",
            "sqlite": "PRAGMA query_only = ON",
        }[connections[database].vendor],
    )


LEFT_BEHIND: dict[str, Callable[[str], object]] = {
    "closed": lambda database: connections.close_all(),
    "autocommit off": _autocommit_off,
    "an open block": _open_block,
    "a statement that begins": lambda database: execute(database, "BEGIN"),
    "read only": _read_only,
}


@pytest.mark.parametrize("state", LEFT_BEHIND)
def test_backend_leaves_its_connection_in_any_state(
    database: str, scripted: Script, caplog: pytest.LogCaptureFixture, state: str
) -> None:
    """Whatever a backend or a handler does to its connection, the relay settles its events."""

    def answer(messages: Sequence[Message]) -> list[Outcome]:
        list(Order.objects.using(database).all())  # it has a connection
        LEFT_BEHIND[state](database)
        scripted.arrived += [message.subject for message in messages]
        return [None] * len(messages)

    scripted.answer = answer
    publish("a1", "a2", "b1", using=database)
    with working(database, batch_size=1):
        wait_until(lambda: all_published(database), SECONDS, "the delivery")
    assert scripted.arrived == ["a1", "a2", "b1"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not Order.objects.using(database).exists()


def test_receivers_cannot_reach_the_connections_of_the_relay(
    database: str, scripted: Script, caplog: pytest.LogCaptureFixture
) -> None:
    """Receivers of the relay's signals may close every connection, too."""
    calls: list[str] = []

    def close(sender: object, **_: Any) -> None:
        list(Order.objects.using(database).all())
        connections.close_all()
        calls.append(threading.current_thread().name)

    publish("a1", "b1", using=database)
    event_published.connect(close)
    batch_settled.connect(close)
    try:
        with working(database, batch_size=1):
            wait_until(lambda: len(calls) == 4, SECONDS, "the signals")
    finally:
        event_published.disconnect(close)
        batch_settled.disconnect(close)
    assert set(calls) == {"relay-default-code"}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# --- The thread ----------------------------------------------------------------------------------


@pytest.fixture
def apart() -> Iterator[SeparateThread]:
    """A thread beside the test's."""
    thread = SeparateThread("apart")
    yield thread
    thread.end()


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_separate_thread_passes_on_what_is_raised(
    apart: SeparateThread, error: BaseException
) -> None:
    """Whatever the code raises arrives where it was called, and the thread serves further calls."""

    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        apart.run(fail)
    assert caught.value is error
    assert apart.run(threading.current_thread).name == "apart"


def test_separate_thread_that_ended_is_started_again(apart: SeparateThread) -> None:
    """After its end the next call has a new thread, and one connection less is open."""
    first = apart.run(threading.current_thread)
    apart.end()
    assert not first.is_alive()
    assert apart.run(threading.current_thread) is not first


# --- Pools ---------------------------------------------------------------------------------------


@pytest.fixture
def pooled(committing: None) -> Iterator[str]:
    """The test's PostgreSQL once more, by a pool of Django's with two connections."""
    if default.vendor != "postgresql":
        pytest.skip("needs PostgreSQL")
    if not find_spec("psycopg_pool"):
        if services.in_ci():
            pytest.fail("psycopg_pool is not installed")
        pytest.skip("needs psycopg_pool")
    known = connections["default"].settings_dict
    pool = {"pool": {"min_size": 1, "max_size": 2, "timeout": 5}}
    place = {**known, "OPTIONS": {**known["OPTIONS"], **pool}, "CONN_MAX_AGE": 0}
    with as_alias("pooled", place) as alias:
        yield alias
        connections[alias].close()
        connections[alias].close_pool()  # type: ignore[attr-defined]


def test_relay_needs_no_connection_of_a_pool(
    pooled: str, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """With a pool of two connections, five backends deliver, and no heartbeat fails."""
    settings.DATABASE_ROUTERS = [OneDatabase(pooled)]
    aliases = [f"b{number}" for number in range(5)]
    settings.OUTBOX_PUBLISHERS = {alias: {"BACKEND": LOCAL} for alias in aliases}
    for alias in aliases:
        publisher.publish_event("order.placed", "/shop", backend=alias, subject=alias)
    connections[pooled].close()
    with (
        handling("write", lambda event: Order.objects.create(number=event.subject)),
        working(pooled, *aliases),
    ):
        wait_until(lambda: all_published("default"), SECONDS, "the delivery")
    assert sorted(Order.objects.values_list("number", flat=True)) == aliases
    connections[pooled].close()
    found = [record for record in caplog.records if record.levelno >= logging.WARNING]
    (small,) = found
    assert "Set OPTIONS['pool']['max_size'] to 5 or more." in small.getMessage()


def test_large_pool_needs_no_warning(pooled: str, caplog: pytest.LogCaptureFixture) -> None:
    """A pool with a connection for each backend is large enough."""
    with working(pooled, "default"):
        pass
    assert "pool" not in caplog.text


class ThreadNoting(RedisStreamBackend):
    """A backend of a project, which may run anything."""


@pytest.mark.parametrize(("kind", "is_relays"), [(RedisStreamBackend, True), (ThreadNoting, False)])
def test_only_backends_that_run_no_code_of_a_project_share_the_relays_thread(
    database: str, settings: Settings, kind: type[RedisStreamBackend], is_relays: bool
) -> None:
    """A handover a batch is saved for these; a subclass of one counts as the project's code."""
    publishers = {"default": {"BACKEND": f"{kind.__module__}.{kind.__qualname__}"}}
    settings.OUTBOX_PUBLISHERS = publishers
    thread = SeparateThread("foreign")
    loop = DeliveryLoop(database, "default", runner=thread)
    try:
        found = loop.broker.runner.run(threading.current_thread)
        assert (found is threading.current_thread()) is is_relays
        assert loop._runner.run(threading.current_thread) is not threading.current_thread()
    finally:
        thread.end()
