"""Events of a batch share a transaction of their handlers, and the inbox keeps its promises."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from contextvars import ContextVar
from threading import Barrier, get_ident
from threading import enumerate as enumerate_threads
from typing import TYPE_CHECKING, Any

import pytest
from django.conf import settings as django_settings
from django.db import DatabaseError, connections, transaction
from psycopg.sql import SQL, Literal

from django_broadcaster.backends import LocalBackend
from django_broadcaster.backends.base import Message, Outcome
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import AfterCommitFailed, Rejected, TransientError
from django_broadcaster.inbox_batch import _REPEATABLE, SharedTransaction
from django_broadcaster.registry import HandlerFunction, event_registry
from django_broadcaster.relay.separate_thread import SeparateThread
from tests.app.models import Order
from tests.publishers.statements import statements
from tests.publishers.threads import threads
from tests.relay.conftest import working
from tests.support.databases import SERVERS
from tests.support.events import publish
from tests.support.registered import only_handlers
from tests.support.routing import OneDatabase
from tests.support.waiting import wait_until
from tests.test_inbox import handled, orders

if TYPE_CHECKING:
    from pytest_django import Settings

LOCAL = "django_broadcaster.backends.LocalBackend"
SECONDS = 20.0
tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


@pytest.fixture
def routed(database: str, settings: Settings) -> str:
    """As `database`, and everything that names no database goes there."""
    settings.DATABASE_ROUTERS = [OneDatabase(database)]
    return database


@pytest.fixture(autouse=True)
def no_handlers() -> Iterator[None]:
    """Begin without handlers, and forget those of a test."""
    with only_handlers():
        yield


@pytest.fixture
def calls() -> list[str]:
    """The calls of handlers."""
    return []


def register(function: HandlerFunction, name: str = "handler", **options: Any) -> None:
    """Register a handler of every event."""
    event_registry.register(name=name, **options)(function)


def message(name: str, key: str = "", attempt: int = 1) -> Message:
    """A message with this id and subject."""
    event = CloudEvent(event_type="order.placed", source="/shop", id=name, subject=name, data={})
    return Message.of(event, partition_key=key, attempt=attempt)


def messages(*names: str) -> list[Message]:
    """Messages whose key is the letter of their name."""
    return [message(name, key=name[0]) for name in names]


def send(batch: Sequence[Message], **options: Any) -> list[Outcome]:
    """Send a batch with a new backend."""
    return LocalBackend(alias="default", **options).send_batch(batch)


def kinds(outcomes: Sequence[Outcome]) -> list[str]:
    """The names of the outcomes' classes; empty for success."""
    return ["" if each is None else type(each).__name__ for each in outcomes]


def write(event: CloudEvent) -> None:
    """Write an order."""
    Order.objects.create(number=event.subject or "")


def failing_for(name: str, error: BaseException, calls: list[str]) -> HandlerFunction:
    """A handler that writes an order, and fails for one event."""

    def handle(event: CloudEvent) -> None:
        calls.append(event.subject or "")
        write(event)
        if event.subject == name:
            raise error

    return handle


# --- One transaction -----------------------------------------------------------------------------


def test_a_batch_costs_one_insert_into_the_inbox(routed: str) -> None:
    """Whatever the number of events and handlers, one statement writes all notes."""
    register(lambda event: None, "one")
    register(lambda event: None, "two")
    with statements() as run:
        assert kinds(send(messages("a1", "a2", "b1", "c1"))) == [""] * 4
    assert [sql.split()[0] for sql in run if sql != "BEGIN IMMEDIATE"] == ["INSERT"]
    assert len(handled(routed)) == 8


def test_events_of_a_batch_commit_together(routed: str) -> None:
    """Another connection sees no event's changes before all of them are there."""
    seen: list[int] = []

    def look(event: CloudEvent) -> None:
        write(event)
        with threads(1) as start:
            seen.append(len(start(lambda: orders(routed)).result(SECONDS)))

    register(look)
    assert kinds(send(messages("a1", "a2", "a3"))) == ["", "", ""]
    assert seen == [0, 0, 0]
    assert orders(routed) == ["a1", "a2", "a3"]


def test_an_event_that_is_delivered_again_is_skipped(routed: str, calls: list[str]) -> None:
    """A batch with some events that were handled before calls the handlers of the others."""
    register(failing_for("", ValueError(), calls))
    send(messages("a1", "b1"))
    assert kinds(send(messages("a1", "a2", "b1", "b2"))) == [""] * 4
    assert kinds(send(messages("a1", "a2", "b1", "b2"))) == [""] * 4
    assert calls == ["a1", "b1", "a2", "b2"]
    assert orders(routed) == calls


def test_a_handler_that_had_the_event_is_skipped_alone(routed: str, calls: list[str]) -> None:
    """A handler that is new runs for events that the other one had."""
    register(write, "one")
    send(messages("a1", "a2"))
    register(lambda event: calls.append(event.subject), "two")
    send(messages("a1", "a2", "a3"))
    assert calls == ["a1", "a2", "a3"]
    assert orders(routed) == ["a1", "a2", "a3"]


def test_the_transaction_around_is_kept(routed: str) -> None:
    """In the transaction of a test, each handler has a savepoint, and sees what the test wrote."""
    seen: list[list[str]] = []
    register(lambda event: seen.append(orders(routed)))
    with transaction.atomic(using=routed):
        Order.objects.create(number="of the test")
        assert kinds(send(messages("a1", "b1"), concurrency=4)) == ["", ""]
        transaction.set_rollback(True, using=routed)
    assert seen == [["of the test"]] * 2
    assert handled(routed) == []


def test_with_a_batch_size_of_one_each_handler_has_its_transaction(routed: str) -> None:
    """The option switches shared transactions off."""
    seen: list[int] = []

    def look(event: CloudEvent) -> None:
        write(event)
        with threads(1) as start:
            seen.append(len(start(lambda: orders(routed)).result(SECONDS)))

    register(look)
    send(messages("a1", "b1", "c1"), batch_size=1)
    assert seen == [0, 1, 2]


def test_a_slow_transaction_commits_before_its_end(
    routed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a second it commits what was handled; the notes of the rest are not left behind."""
    monkeypatch.setattr("django_broadcaster.inbox_batch.MOST_SECONDS", -1.0)
    register(write)
    works: list[int] = []
    run = SharedTransaction.run
    monkeypatch.setattr(
        SharedTransaction, "run", lambda self: works.append(done := run(self)) or done
    )
    assert kinds(send(messages("a1", "a2", "a3", "a4"))) == [""] * 4
    assert works == [1, 1]  # a2 and a4 were handled by themselves
    assert orders(routed) == ["a1", "a2", "a3", "a4"]
    assert len(handled(routed)) == 4


# --- Failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("no"), "TransientError"),
        (Rejected("never"), "Rejected"),
        (TransientError("busy", retry_after=60), "TransientError"),
    ],
    ids=repr,
)
def test_a_failure_undoes_nothing_else(
    routed: str, calls: list[str], error: Exception, kind: str
) -> None:
    """The event that failed has no effect; those before and after it are handled."""
    register(failing_for("b1", error, calls))
    outcomes = send(messages("a1", "b1", "a2", "b2", "c1"))
    assert kinds(outcomes) == ["", kind, "", "Held", ""]
    assert str(error) in str(outcomes[1])
    assert orders(routed) == ["a1", "a2", "c1"]
    assert handled(routed) == [("handler", each) for each in ("a1", "a2", "c1")]
    assert calls.count("b1") == 1  # its failure counts; it is not called again to see it fail


def test_the_other_handlers_of_an_event_that_failed_run(routed: str, calls: list[str]) -> None:
    """Each handler of an event succeeds or fails by itself, in a batch as well."""
    register(lambda event: calls.append(f"one {event.subject}"), "one")
    register(failing_for("a2", ValueError("no"), []), "two")
    register(lambda event: calls.append(f"three {event.subject}"), "three")
    outcomes = send(messages("a1", "a2"))
    assert kinds(outcomes) == ["", "TransientError"]
    assert [name for name, _ in outcomes[1].handlers] == ["two"]  # type: ignore[union-attr]
    assert sorted(handled(routed)) == [
        *[("one", "a1"), ("one", "a2"), ("three", "a1"), ("three", "a2"), ("two", "a1")]
    ]


def test_a_batch_whose_events_all_fail(routed: str, calls: list[str]) -> None:
    """Each has its own outcome, and is called once."""

    def fail(event: CloudEvent) -> None:
        calls.append(event.subject or "")
        raise ValueError(event.subject)

    register(fail)
    names = [f"{letter}1" for letter in "abcdefghij"]
    outcomes = send(messages(*names))
    assert kinds(outcomes) == ["TransientError"] * 10
    assert calls == names


def test_few_failures_cost_few_calls(routed: str, calls: list[str]) -> None:
    """With one event of 300 that fails, no more handlers are called twice than share with it."""
    register(failing_for("a150", ValueError("no"), calls))
    batch = [message(f"a{number}") for number in range(300)]
    outcomes = send(batch)
    assert kinds(outcomes).count("") == 299
    assert len(orders(routed)) == 299
    assert len(calls) <= 300 + 100


def test_a_transaction_that_cannot_commit(routed: str, calls: list[str]) -> None:
    """If the commit itself fails, each event is handled by itself, and one of them fails."""
    if connections[routed].vendor != "postgresql":
        pytest.skip("the others judge constraints before the commit")
    with connections[routed].cursor() as cursor:
        cursor.execute("CREATE TABLE refusing (i int UNIQUE DEFERRABLE INITIALLY DEFERRED)")

    def insert(event: CloudEvent) -> None:
        write(event)
        calls.append(event.subject or "")
        with connections[routed].cursor() as cursor:
            for number in (1, 1) if event.subject == "b1" else (len(calls) + 1,):
                cursor.execute("INSERT INTO refusing VALUES (%s)", [number])

    register(insert)
    try:
        assert kinds(send(messages("a1", "b1", "c1"))) == ["", "TransientError", ""]
    finally:
        with connections[routed].cursor() as cursor:
            cursor.execute("DROP TABLE refusing")
    assert orders(routed) == ["a1", "c1"]


def test_a_database_error_that_a_handler_hides(routed: str) -> None:
    """Where the database undid the changes of all, only the event of that handler fails."""

    def hide(event: CloudEvent) -> None:
        write(event)
        if event.subject == "b1":
            with suppress(DatabaseError), connections[routed].cursor() as cursor:
                cursor.execute("SELECT * FROM no_such_table")

    register(hide)
    outcomes = send(messages("a1", "b1", "c1"))
    undone = connections[routed].vendor == "postgresql"
    assert kinds(outcomes) == ["", "TransientError" if undone else "", ""]
    assert orders(routed) == (["a1", "c1"] if undone else ["a1", "b1", "c1"])


@pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK"])
def test_a_handler_that_ends_the_transaction(routed: str, statement: str) -> None:
    """It never ends a transaction that others share: it has one of its own, as without a batch."""

    def end(event: CloudEvent) -> None:
        write(event)
        with connections[routed].cursor() as cursor:
            cursor.execute(statement)

    register(end)
    backend = LocalBackend(alias="default")
    commits = statement == "COMMIT"
    for names in (("a1", "b1", "c1"), ("d1", "e1", "f1")):
        outcomes = backend.send_batch(messages(*names))
        assert kinds(outcomes) == ["" if commits else "TransientError"] * 3
    expected = ["a1", "b1", "c1", "d1", "e1", "f1"] if commits else []
    assert orders(routed) == expected
    assert handled(routed) == [("handler", each) for each in expected]


@pytest.mark.parametrize(
    "statement",
    [
        "SET LOCAL application_name = 'a tenant'",
        "SELECT set_config('application_name', 'a tenant', true)",
        SQL("SET LOCAL application_name = {}").format(Literal("a tenant")),
    ],
    ids=["SET LOCAL", "set_config", "composed"],
)
def test_a_setting_of_the_transaction_reaches_no_other_event(
    routed: str, calls: list[str], statement: Any
) -> None:
    """A handler that sets something until the end of its transaction has one of its own."""
    if connections[routed].vendor != "postgresql":
        pytest.skip("the others have no such settings")

    def handle(event: CloudEvent) -> None:
        with connections[routed].cursor() as cursor:
            cursor.execute("SHOW application_name")
            calls.append(cursor.fetchone()[0])
            cursor.execute(statement)
        write(event)

    register(handle)
    assert send(messages("a1", "b1", "c1")) == [None] * 3
    assert "a tenant" not in calls
    assert orders(routed) == ["a1", "b1", "c1"]


def test_a_handler_that_closes_its_connection(routed: str) -> None:
    """The connection of the others is lost with it, but not their events."""

    def close(event: CloudEvent) -> None:
        write(event)
        if event.subject == "b1":
            connections[routed].close()

    register(close)
    assert kinds(send(messages("a1", "b1", "c1"))) == ["", "TransientError", ""]
    assert orders(routed) == ["a1", "c1"]
    assert handled(routed) == [("handler", "a1"), ("handler", "c1")]


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()], ids=repr)
def test_what_ends_the_process_is_raised(
    routed: str, calls: list[str], error: BaseException
) -> None:
    """It is no failure of one event here, and leaves nothing of the shared transaction."""
    register(failing_for("b1", error, calls))
    with pytest.raises(type(error)):
        send(messages("a1", "b1", "c1"))
    assert (orders(routed), handled(routed)) == ([], [])
    assert not connections[routed].in_atomic_block


# --- What a rollback does not undo ---------------------------------------------------------------


def test_a_handler_of_another_database_shares_no_transaction(routed: str) -> None:
    """A rollback would not undo its changes there, so each of them is made once."""
    other = next((each for each in django_settings.DATABASES if each != routed), None)
    if other is None:
        pytest.skip("there is one database")

    def write_there(event: CloudEvent) -> None:
        Order.objects.using(other).create(number=event.subject or "")

    register(write_there, "there")
    register(failing_for("c1", ValueError("no"), []), "here")
    backend = LocalBackend(alias="default")
    for letters in ("abc", "def"):
        backend.send_batch(messages(*(f"{letter}1" for letter in letters)))
    assert orders(other) == [f"{letter}1" for letter in "abcdef"]
    assert orders(routed) == [f"{letter}1" for letter in "abdef"]


def test_a_change_behind_set_shares_no_transaction(routed: str) -> None:
    """MariaDB runs a statement within SET, which is made once as any other change there."""
    if routed == "mariadb" or "mariadb" not in django_settings.DATABASES:
        pytest.skip("there is no other database that is MariaDB")

    def write_there(event: CloudEvent) -> None:
        with connections["mariadb"].cursor() as cursor:
            insert = f"INSERT INTO {Order._meta.db_table} (number, total) VALUES (%s, 0)"  # noqa: S608
            cursor.execute(f"SET STATEMENT max_statement_time = 60 FOR {insert}", [event.subject])

    register(write_there, "there")
    register(failing_for("c1", ValueError("no"), []), "here")
    LocalBackend(alias="default").send_batch(messages("a1", "b1", "c1"))
    assert orders("mariadb") == ["a1", "b1", "c1"]


@pytest.mark.parametrize(
    ("statement", "is_repeatable"),
    [
        ("SELECT 1", True),
        ("SELECT 1;", True),
        ("\n select intro FROM forks", True),
        ("SHOW TABLES", True),
        ("EXPLAIN SELECT 1", True),
        ("SET SQL_AUTO_IS_NULL = 0", True),
        ("SET SQL_AUTO_IS_NULL = 0; SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED", True),
        ("SET NAMES utf8mb4;", True),
        ("SET default_role_of_app = 1", True),
        ("SELECT 1; DELETE FROM t", False),
        ("SELECT * INTO copies FROM t", False),
        ("SELECT 1 INTO OUTFILE 'x'", False),
        ("SELECT * FROM t FOR UPDATE", False),
        ("SELECT * FROM t FOR SHARE", False),
        ("SELECT * FROM t FOR NO KEY UPDATE", False),
        ("SELECT * FROM t FOR\nKEY SHARE", False),
        ("EXPLAIN ANALYZE DELETE FROM t", False),
        ("EXPLAIN (BUFFERS, ANALYSE) DELETE FROM t", False),
        ("SET GLOBAL a = 1", False),
        ("SET PERSIST a = 1", False),
        ("SET PERSIST_ONLY a = 1", False),
        ("SET @@GLOBAL.a = 1", False),
        ("SET @@persist.a = 1", False),
        ("SET SESSION a = 1, GLOBAL b = 2", False),
        ("SET a = 1; SET @@global.b = 2", False),
        ("SET DEFAULT ROLE admin FOR ada", False),
        ("SET PASSWORD = 'x'", False),
        ("SET STATEMENT a = 1 FOR DELETE FROM t", False),
        ("SET  STATEMENT a = 1 FOR DELETE FROM t", False),
        ("SET /* */ STATEMENT a = 1 FOR DELETE FROM t", False),
        ("SET a = 1; DELETE FROM t", False),
        ("INSERT INTO t VALUES (1)", False),
        ("WITH gone AS (DELETE FROM t RETURNING 1) SELECT * FROM gone", False),
    ],
)
def test_a_statement_on_another_database_may_be_repeated_if_it_changes_nothing(
    statement: str, is_repeatable: bool
) -> None:
    """A rollback of the inbox's database would not undo it."""
    assert bool(_REPEATABLE.match(statement)) == is_repeatable


def test_a_handler_may_read_another_database_in_a_batch(routed: str, calls: list[str]) -> None:
    """A read and a new connection can be repeated: no reason to handle each event by itself."""
    other = next((each for each in django_settings.DATABASES if each != routed), None)
    if other is None:
        pytest.skip("there is one database")
    register(lambda event: calls.append(str(Order.objects.using(other).count())))
    connections[other].close()
    with statements() as run:
        assert kinds(send(messages("a1", "b1", "c1"))) == ["", "", ""]
    assert [sql.split()[0] for sql in run].count("INSERT") == 1
    assert calls == ["0"] * 3


def test_a_handler_without_a_transaction_runs_by_itself(routed: str, calls: list[str]) -> None:
    """With `atomic=False` it is in no batch, and is called once whatever fails beside it."""

    def call_out(event: CloudEvent) -> None:
        assert not connections[routed].in_atomic_block
        calls.append(event.subject or "")

    event_registry.register("order.exported", name="out", atomic=False)(call_out)
    event_registry.register("order.placed", name="here")(failing_for("c1", ValueError("no"), []))
    batch = messages("a1", "b1", "c1", "d1")
    batch[1].event_type = "order.exported"
    assert kinds(send(batch)) == ["", "", "TransientError", ""]
    assert calls == ["b1"]
    assert orders(routed) == ["a1", "d1"]


def test_an_event_that_failed_before_is_handled_by_itself(routed: str) -> None:
    """It may fail again, and would cost the others their transaction."""
    seen: list[int] = []

    def look(event: CloudEvent) -> None:
        write(event)
        with threads(1) as start:
            seen.append(len(start(lambda: orders(routed)).result(SECONDS)))

    register(look)
    send([message("a1"), message("b1", attempt=2), message("c1")])
    assert seen == [0, 1, 2]


# --- on_commit -----------------------------------------------------------------------------------


def test_on_commit_functions_of_a_batch(routed: str, calls: list[str]) -> None:
    """They run after the commit, in the order of the events; one that fails is its event's."""

    def after(name: str) -> None:
        calls.append(f"after {name} {len(orders(routed))}")
        if name == "b1":
            raise ConnectionError("the mail server is away")

    def handle(event: CloudEvent) -> None:
        write(event)
        calls.append(event.subject or "")
        transaction.on_commit(lambda: after(event.subject or ""), using=routed)
        transaction.on_commit(lambda: calls.append(f"then {event.subject}"), using=routed)

    register(handle)
    outcomes = send(messages("a1", "b1", "c1"))
    assert kinds(outcomes) == ["", "AfterCommitFailed", ""]
    assert isinstance(outcomes[1], AfterCommitFailed)
    assert isinstance(outcomes[1].unforeseen, ConnectionError)
    assert calls[:3] == ["a1", "b1", "c1"]
    assert calls[3:] == ["after a1 3", "then a1", "after b1 3", "after c1 3", "then c1"]
    assert orders(routed) == ["a1", "b1", "c1"]
    assert kinds(send(messages("b1", "b2"))) == ["", ""]  # its handler does not run again


def test_on_commit_functions_of_a_rolled_back_batch_do_not_run(
    routed: str, calls: list[str]
) -> None:
    """Only those of handlers that have committed are called, and once."""

    def handle(event: CloudEvent) -> None:
        transaction.on_commit(lambda: calls.append(event.subject or ""), using=routed)
        if event.subject == "c1":
            raise ValueError("no")

    register(handle)
    send(messages("a1", "b1", "c1", "d1"))
    assert calls == ["a1", "b1", "d1"]


# --- Context, order, threads ---------------------------------------------------------------------


def test_each_handler_of_a_batch_has_a_context_of_its_own(routed: str, calls: list[str]) -> None:
    """What one sets does not reach the next."""

    def leave(event: CloudEvent) -> None:
        calls.append(tenant.get())
        tenant.set(event.subject or "")

    register(leave)
    send(messages("a1", "b1", "c1"))
    assert calls == ["nobody"] * 3
    assert tenant.get() == "nobody"


def test_async_handlers_of_a_batch(routed: str) -> None:
    """They are awaited, in the transaction that the events share."""

    async def handle(event: CloudEvent) -> None:
        await asyncio.sleep(0)
        await Order.objects.acreate(number=event.subject or "")
        if event.subject == "b1":
            raise ValueError("no")

    register(handle)
    assert kinds(send(messages("a1", "b1", "c1"))) == ["", "TransientError", ""]
    assert orders(routed) == ["a1", "c1"]


def test_progress_is_shown_for_each_handler(routed: str) -> None:
    """A long batch is not taken for one that hangs."""
    shown: list[int] = []
    register(write)
    backend = LocalBackend(alias="default")
    backend.on_progress = lambda: shown.append(1)
    backend.send_batch(messages("a1", "b1", "c1"))
    assert len(shown) == 3


# --- Threads -------------------------------------------------------------------------------------


@pytest.fixture
def backend() -> Iterator[LocalBackend]:
    """A backend with four threads, as a relay makes it."""
    made = LocalBackend(alias="default", concurrency=4)
    made.new_thread = SeparateThread
    yield made
    made.close()


@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_handlers_of_different_keys_run_in_parallel(routed: str, backend: LocalBackend) -> None:
    """Four events are in four handlers at a time, each with a connection of its own."""
    barrier = Barrier(4)
    used: set[int] = set()

    def meet(event: CloudEvent) -> None:
        barrier.wait(SECONDS)
        used.add(id(connections[routed]))

    register(meet, "meet")  # notes of other tests may be delete-marked, which MariaDB locks
    assert backend.send_batch(messages("a1", "b1", "c1", "d1")) == [None] * 4
    assert len(used) == 4


def test_events_of_a_key_stay_in_order_in_threads(
    routed: str, backend: LocalBackend, calls: list[str]
) -> None:
    """A key stays in one thread of a batch, and its events in their order, after failures too."""
    used: dict[str, set[int]] = {}

    def handle(event: CloudEvent) -> None:
        subject = event.subject or ""
        used.setdefault(subject[0], set()).add(get_ident())
        if subject == "b2":
            raise ValueError("no")
        write(event)

    register(handle)
    names = [f"{letter}{number}" for number in range(5) for letter in "abcdefg"]
    outcomes = dict(zip(names, kinds(backend.send_batch(messages(*names))), strict=True))
    assert [outcomes[f"b{number}"] for number in range(5)] == [
        *("", "", "TransientError", "Held", "Held")
    ]
    assert all(not outcome for name, outcome in outcomes.items() if name[0] != "b")
    assert all(len(idents) == 1 for idents in used.values())
    assert len(set.union(*used.values())) == 4
    for letter in "abcdefg":
        found = [number for number in orders(routed) if number[0] == letter]
        assert found == [f"{letter}{number}" for number in range(2 if letter == "b" else 5)]


def test_an_exit_in_a_thread_is_raised(routed: str, backend: LocalBackend) -> None:
    """It reaches the relay, after the other threads have ended."""
    register(failing_for("b1", SystemExit(1), []))
    with pytest.raises(SystemExit):
        backend.send_batch(messages("a1", "b1", "c1", "d1"))
    assert sorted(orders(routed)) == ["a1", "c1", "d1"]


def test_threads_end_with_the_backend(routed: str, backend: LocalBackend) -> None:
    """`close` ends them and their connections, and a later batch starts others."""
    register(write)
    backend.send_batch(messages("a1", "b1"))
    names = [each.name for each in enumerate_threads() if "handlers" in each.name]
    assert names == ["relay-default-handlers-1"]
    backend.close()
    assert not [each for each in enumerate_threads() if "handlers" in each.name]
    assert kinds(backend.send_batch(messages("c1", "d1"))) == ["", ""]


def test_without_a_relay_there_are_no_threads(routed: str) -> None:
    """`process_pending_events` runs handlers in the thread of its caller."""
    used: set[int] = set()
    register(lambda event: used.add(get_ident()))
    send(messages("a1", "b1", "c1"), concurrency=4)
    assert used == {get_ident()}


def test_a_relay_with_threads(routed: str, settings: Settings) -> None:
    """A relay delivers with `concurrency`: each event once, and those of a key in order."""
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": LOCAL, "OPTIONS": {"concurrency": 3, "batch_size": 4}}
    }
    used: set[int] = set()

    def handle(event: CloudEvent) -> None:
        used.add(get_ident())
        write(event)

    register(handle)
    names = [f"{letter}{number}" for number in range(8) for letter in "abcde"]
    publish(*names, using=routed)
    with working(routed, batch_size=20):
        wait_until(lambda: len(orders(routed)) == len(names), SECONDS, "the handlers")
    assert sorted(orders(routed)) == sorted(names)
    for letter in "abcde":
        found = [number for number in orders(routed) if number[0] == letter]
        assert found == [f"{letter}{number}" for number in range(8)]
    assert len(used) > 1
