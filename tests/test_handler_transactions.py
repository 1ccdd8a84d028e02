"""The transaction of a handler: no handler counts as done whose changes have not committed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from django.db import DatabaseError, IntegrityError, connections, transaction
from django.db.transaction import TransactionManagementError

from django_broadcaster.exceptions import AfterCommitFailed, TransientError
from django_broadcaster.inbox import dispatch, process
from django_broadcaster.models import InboxEvent, OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.registry import EventHandlerRegistry, Handler, event_registry
from tests.app.models import Order
from tests.publishers.statements import statements
from tests.publishers.threads import threads, waits_for_lock
from tests.support.databases import SERVERS
from tests.support.own_servers import as_alias
from tests.support.routing import OneDatabase
from tests.support.waiting import wait_until
from tests.test_inbox import EVENT, handled, orders

if TYPE_CHECKING:
    from pytest_django import Settings

SECONDS = 20.0
LOCAL = "django_broadcaster.backends.LocalBackend"


@pytest.fixture
def routed(database: str, settings: Settings) -> str:
    """As `database`, and everything that names no database goes there."""
    settings.DATABASE_ROUTERS = [OneDatabase(database)]
    return database


def handler(function: Callable[..., object], **options: Any) -> Handler:
    """A handler of every event, by the name `handler`."""
    return Handler("handler", function, ("*",), **options)


def execute(database: str, sql: str) -> None:
    """Run a statement, and read what it returns."""
    with connections[database].cursor() as cursor:
        cursor.execute(sql)
        if cursor.description:
            cursor.fetchall()


# --- Errors that a handler hides -----------------------------------------------------------------


def test_handler_that_hides_an_error_of_a_cursor(database: str) -> None:
    """If the database undid the handler's changes, the handler fails; else all of it commits."""

    def hide(event: object) -> None:
        Order.objects.using(database).create(number="before")
        with suppress(DatabaseError):
            execute(database, "SELECT * FROM no_such_table")

    undone = connections[database].vendor == "postgresql"
    if undone:
        with pytest.raises(TransactionManagementError, match="handler handler continued after a"):
            process(EVENT, handler(hide), using=database)
    else:
        assert process(EVENT, handler(hide), using=database) is True
    assert orders(database) == ([] if undone else ["before"])
    assert handled(database) == ([] if undone else [("handler", "1")])


@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_handler_that_hides_a_lock_it_did_not_get(database: str) -> None:
    """A refused `nowait` undoes the changes on PostgreSQL alone, and that is a failure there."""
    row = Order.objects.using(database).create(number="locked")
    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic(using=database):
            Order.objects.using(database).select_for_update().get(pk=row.pk)
            locked.set()
            done.wait(SECONDS)

    def hide(event: object) -> None:
        Order.objects.using(database).create(number="before")
        with suppress(DatabaseError):
            Order.objects.using(database).select_for_update(nowait=True).get(pk=row.pk)

    with threads(1) as start:
        holding = start(hold)
        assert locked.wait(SECONDS)
        try:
            if connections[database].vendor == "postgresql":
                with pytest.raises(TransactionManagementError):
                    process(EVENT, handler(hide), using=database)
            else:
                assert process(EVENT, handler(hide), using=database) is True
        finally:
            done.set()
        holding.result(SECONDS)
    assert ("before" in orders(database)) is bool(handled(database))


@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_handler_that_hides_a_deadlock(database: str) -> None:
    """The loser of a deadlock is rolled back: nothing that the handler did after it is kept."""
    rows = [Order.objects.using(database).create(number=f"row {number}") for number in range(2)]
    theirs, ours = threading.Event(), threading.Event()

    def lock(place: int) -> None:
        Order.objects.using(database).select_for_update().get(pk=rows[place].pk)

    def win() -> None:
        with transaction.atomic(using=database):
            # The lighter transaction loses on MariaDB, and the one that waited first on PostgreSQL.
            for _ in range(100):
                Order.objects.using(database).create(number="weight")
            lock(0)
            theirs.set()
            assert ours.wait(SECONDS)
            lock(1)
            Order.objects.using(database).filter(number="weight").delete()

    def hide(event: object) -> None:
        Order.objects.using(database).create(number="before")
        lock(1)
        ours.set()
        assert theirs.wait(SECONDS)
        if connections[database].vendor == "postgresql":
            execute(database, "SET LOCAL deadlock_timeout = '10ms'")
        else:
            wait_until(lambda: _waits(database), SECONDS, "the other to wait")
        with pytest.raises(DatabaseError):
            lock(0)
        with suppress(DatabaseError):  # which PostgreSQL refuses
            Order.objects.using(database).create(number="after")

    with threads(1) as start:
        winning = start(win)
        with pytest.raises(TransactionManagementError):
            process(EVENT, handler(hide), using=database)
        winning.result(SECONDS)
    assert orders(database) == ["row 0", "row 1"]
    assert handled(database) == []


def _waits(database: str) -> bool:
    """Return True if another session waits for a row lock on MariaDB."""
    sql = "SELECT 1 FROM information_schema.innodb_lock_waits"
    with threads(1) as start:

        def look() -> bool:
            with connections[database].cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchone() is not None

        return bool(start(look).result(SECONDS))


# --- Transactions that a handler ends by itself --------------------------------------------------


def test_handler_that_rolls_back_and_goes_on(database: str) -> None:
    """What follows a ROLLBACK of the handler's own does not commit without the inbox's note."""

    def roll_back(event: object) -> None:
        Order.objects.using(database).create(number="before")
        execute(database, "ROLLBACK")
        Order.objects.using(database).create(number="after")

    with pytest.raises(TransactionManagementError, match="after its transaction ended"):
        process(EVENT, handler(roll_back), using=database)
    assert handled(database) == []
    if connections[database].vendor != "sqlite":  # where nothing is left to roll back
        assert orders(database) == []


def test_handler_that_commits_and_returns_has_had_the_event(database: str) -> None:
    """A COMMIT of the handler's own commits the note, too."""

    def commit(event: object) -> None:
        Order.objects.using(database).create(number="once")
        execute(database, "COMMIT")

    assert process(EVENT, handler(commit), using=database) is True
    assert process(EVENT, handler(commit), using=database) is False
    assert orders(database) == ["once"]


def test_handler_that_commits_and_then_fails_runs_again(database: str) -> None:
    """The note is taken back, so that its work is not taken for done."""
    failures = [ValueError("after the commit")]

    def commit(event: object) -> None:
        if failures:
            execute(database, "COMMIT")
            raise failures.pop()
        Order.objects.using(database).create(number="done")

    with pytest.raises(ValueError, match="after the commit"):
        process(EVENT, handler(commit), using=database)
    assert process(EVENT, handler(commit), using=database) is True
    assert orders(database) == ["done"]


@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_handler_that_changes_tables_and_then_fails_runs_again(database: str) -> None:
    """MariaDB commits before it changes a table, and PostgreSQL takes the change back."""
    failures = [ValueError("after the table")]

    def make(event: object) -> None:
        if failures:
            execute(database, "CREATE TABLE made_by_handler (i int)")
            raise failures.pop()

    try:
        with pytest.raises(ValueError, match="after the table"):
            process(EVENT, handler(make), using=database)
    finally:
        execute(database, "DROP TABLE IF EXISTS made_by_handler")
    assert handled(database) == []
    assert process(EVENT, handler(make), using=database) is True


def test_handler_that_closes_its_connection_fails(database: str) -> None:
    """Its changes are gone with the connection, so it does not count as done."""

    def close(event: object) -> None:
        Order.objects.using(database).create(number="gone")
        connections[database].close()

    with pytest.raises(TransactionManagementError):
        process(EVENT, handler(close), using=database)
    assert (orders(database), handled(database)) == ([], [])


def test_watching_a_handler_costs_no_statement(database: str) -> None:
    """As long as no error occurs, the database is not asked about the transaction."""
    with transaction.atomic(using=database), statements() as run:
        process(EVENT, handler(lambda event: execute(database, "SELECT 1")), using=database)
    assert [sql.split()[0] for sql in run] == ["SAVEPOINT", "INSERT", "SELECT", "RELEASE"]


# --- on_commit -----------------------------------------------------------------------------------


def mailing(database: str, calls: list[str]) -> Handler:
    """A handler that sends a mail when it has committed, which fails."""

    def send() -> None:
        calls.append("mail")
        raise ConnectionError("the mail server is away")

    def write(event: object) -> None:
        calls.append("handler")
        Order.objects.using(database).create(number="written")
        transaction.on_commit(send, using=database)

    return handler(write)


def test_on_commit_function_that_fails_is_a_failure_of_its_own(database: str) -> None:
    """The error says that the changes have committed, and why the function failed."""
    calls: list[str] = []
    with pytest.raises(AfterCommitFailed, match="ConnectionError: the mail server is away") as got:
        process(EVENT, mailing(database, calls), using=database)
    assert isinstance(got.value.unforeseen, ConnectionError)
    assert process(EVENT, mailing(database, calls), using=database) is False
    assert orders(database) == ["written"]
    assert calls == ["handler", "mail"]


@pytest.mark.parametrize("exhausted", ["skip", "block"])
def test_on_commit_function_that_fails_leaves_a_dead_letter(
    routed: str, settings: Settings, exhausted: str
) -> None:
    """No retry repeats it, so that it is not taken for done: the event is dead-lettered at once."""
    calls: list[str] = []
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": LOCAL, "ON_EXHAUSTED": exhausted}}
    mail = mailing(routed, calls)
    event_registry.register("order.placed", name="mail")(mail.function)
    event_registry.register("order.placed", name="busy")(_busy)
    try:
        publisher.publish_event("order.placed", "/shop", max_retries=3)
        publisher.process_pending_events()
    finally:
        event_registry.unregister("mail")
        event_registry.unregister("busy")
    event = OutboxEvent.objects.using(routed).get()
    assert event.status == "failed"
    assert "the mail server is away" in event.last_error
    assert "try later" in event.last_error
    assert calls == ["handler", "mail"]


def _busy(event: object) -> None:
    raise TransientError("try later")


def test_commit_that_the_database_refuses_is_no_failure_after_it(database: str) -> None:
    """If the commit fails, nothing has changed: its error is raised, and the handler runs again."""
    if connections[database].vendor != "postgresql":
        pytest.skip("the others judge constraints before the commit")
    execute(database, "CREATE TABLE refusing (i int UNIQUE DEFERRABLE INITIALLY DEFERRED)")

    def write(event: object) -> None:
        execute(database, "INSERT INTO refusing VALUES (1), (1)")
        transaction.on_commit(lambda: None, using=database)

    try:
        with pytest.raises(IntegrityError):
            process(EVENT, handler(write), using=database)
    finally:
        execute(database, "DROP TABLE refusing")
    assert handled(database) == []


# --- atomic=False --------------------------------------------------------------------------------


def test_handler_without_a_transaction(routed: str) -> None:
    """With `atomic=False` a handler opens its own, durable ones too, and runs once."""
    registry = EventHandlerRegistry()

    @registry.register("order.*", atomic=False)
    def write(event: object) -> None:
        assert not connections[routed].in_atomic_block
        with transaction.atomic(using=routed, durable=True):
            Order.objects.using(routed).create(number="durable")

    dispatch(EVENT, registry)
    dispatch(EVENT, registry)
    assert orders(routed) == ["durable"]
    assert len(handled(routed)) == 1


def test_handler_without_a_transaction_that_fails_runs_again(database: str) -> None:
    """What it changed stays, and the inbox does not say that it had the event."""

    def fail(event: object) -> None:
        Order.objects.using(database).create(number="stays")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        process(EVENT, handler(fail, atomic=False), using=database)
    assert (orders(database), handled(database)) == (["stays"], [])


def test_on_commit_function_in_a_handler_without_a_transaction(database: str) -> None:
    """It is called at once, and its error is the handler's: the handler runs again."""
    calls: list[str] = []
    mail = mailing(database, calls)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            process(EVENT, handler(mail.function, atomic=False), using=database)
    assert calls == ["handler", "mail"] * 2


@pytest.mark.parametrize("how", ["autocommit off", "an open block"])
def test_handler_without_a_transaction_that_leaves_one_open(database: str, how: str) -> None:
    """The handler fails, and the next one has a connection that commits."""

    def leave(event: object) -> None:
        if how == "autocommit off":
            connections[database].set_autocommit(False)
        else:
            transaction.atomic(using=database).__enter__()
        Order.objects.using(database).create(number="left")

    with pytest.raises(TransactionManagementError, match="left a transaction open"):
        process(EVENT, handler(leave, atomic=False), using=database)
    assert handled(database) == []

    def write(event: object) -> None:
        Order.objects.using(database).create(number="next")

    assert process(EVENT, handler(write), using=database) is True
    assert orders(database) == ["next"]


def test_one_function_is_atomic_or_not() -> None:
    """A function can't be registered both ways: it has one note in the inbox."""
    registry = EventHandlerRegistry()
    registry.register("order.*", atomic=False)(_busy)
    registry.register("invoice.*", atomic=False)(_busy)
    with pytest.raises(ValueError, match="atomic: must be False"):
        registry.register("payment.*")(_busy)


# --- Isolation levels ----------------------------------------------------------------------------


@pytest.fixture(params=["REPEATABLE READ", "SERIALIZABLE"])
def strict(request: pytest.FixtureRequest, server: str) -> Iterator[str]:
    """A database server once more, as an alias whose transactions have that isolation level."""
    level: Any = request.param.lower()
    if connections[server].vendor == "postgresql":
        from django.db.backends.postgresql.psycopg_any import IsolationLevel

        level = IsolationLevel[request.param.replace(" ", "_")]
    known = connections[server].settings_dict
    options = {**known["OPTIONS"], "isolation_level": level}
    with as_alias("strict", {**known, "OPTIONS": options}) as alias:
        yield alias


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, committing: None) -> str:
    """Run a committing test once on each database server; the value is its alias."""
    return str(request.param)


def test_duplicate_at_once_is_no_failure_at_any_isolation_level(strict: str) -> None:
    """A second delivery that waits for the first finds the note, and does not fail."""

    def write(event: object) -> None:
        Order.objects.using(strict).create(number="once")

    with threads(1) as start:
        with transaction.atomic(using=strict):
            assert process(EVENT, handler(write), using=strict) is True
            other = start(lambda: process(EVENT, handler(write), using=strict))
            wait_until(lambda: waits_for_lock(strict), SECONDS, "the second waits")
        assert other.result(SECONDS) is False
    assert orders(strict) == ["once"]
    assert InboxEvent.objects.using(strict).count() == 1
