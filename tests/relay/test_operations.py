"""Operations in the background: what they move, exactly once, whatever happens to the relays."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from threading import Barrier, Thread
from typing import TYPE_CHECKING, Any

import pytest
from django.db import DatabaseError, connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_broadcaster.exceptions import Rejected
from django_broadcaster.models import OutboxBackendState, OutboxEvent, OutboxOperation
from django_broadcaster.models.selection import EventSelection
from django_broadcaster.relay.loop import DeliveryLoop
from django_broadcaster.relay.operations import Operations
from django_broadcaster.relay.purging import Purge
from django_broadcaster.signals import operation_ended
from django_broadcaster.store import Window, chunks, estimate_of, first_of, pause, previews, span_of
from django_broadcaster.store import operations as rows
from tests.support.backends import Script
from tests.support.clock import Clock
from tests.support.events import count, publish, publish_many, statuses
from tests.support.operations import AFTER, STATES, request, step, work_off
from tests.support.waiting import wait_until
from tests.support.workers import Workers

from .conftest import Join, Stream, drain, turn, working

REDIS = "django_broadcaster.backends.RedisStreamBackend"

if TYPE_CHECKING:
    from pytest_django import Settings

LATER = timedelta(hours=1)


def events(using: str) -> Any:
    """Return the events of the database."""
    return OutboxEvent.objects.using(using)


@pytest.fixture
def each_state(database: str) -> str:
    """One event in each state; the value is the database's alias."""
    publish(*STATES, using=database)
    for name, status in STATES.items():
        events(database).filter(subject=name).update(
            status=status, scheduled_at=timezone.now() + LATER
        )
    return database


@pytest.fixture
def chunks_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """One transaction moves two events."""
    monkeypatch.setattr(chunks, "CHUNK", 2)


# What is moved


@pytest.mark.parametrize("kind", AFTER)
def test_each_event_is_moved_whose_state_fits(each_state: str, kind: str) -> None:
    """An operation on all events takes those that it can be done to, and says how many."""
    operation = request(kind, each_state)
    assert (operation.state, operation.total, operation.total_is_exact) == (
        *("waiting", len(AFTER[kind])),
        True,
    )
    work_off(each_state)
    operation.refresh_from_db()
    assert (operation.state, operation.done, operation.left_alone) == ("done", len(AFTER[kind]), 0)
    assert operation.progress == 1.0
    assert operation.finished_at is not None
    expected = {**STATES, **AFTER[kind]}
    assert statuses(each_state) == {name: state for name, state in expected.items() if state}


@pytest.mark.parametrize("kind", ["retry", "replay"])
def test_what_is_delivered_again_is_due_now(each_state: str, kind: str) -> None:
    """Whatever was due later, or waited for a retry, goes now."""
    request(kind, each_state)
    work_off(each_state)
    moved = events(each_state).filter(subject__in=AFTER[kind])
    assert all(event.scheduled_at <= timezone.now() for event in moved)


@pytest.mark.parametrize("kind", ["retry", "cancel", "replay"])
def test_an_event_says_which_operation_moved_it(each_state: str, kind: str) -> None:
    """The id of the operation stands with each event that it moved, and with no other."""
    operation = request(kind, each_state)
    work_off(each_state)
    marked = events(each_state).filter(operation=operation.pk)
    assert set(marked.values_list("subject", flat=True)) == set(AFTER[kind])


@pytest.mark.parametrize(
    ("conditions", "taken"),
    [
        ({"status": "failed"}, {"f1", "h1"}),
        ({"key": "e"}, {"e1"}),
        ({"event_type": "order.*"}, {"e1", "f1", "g1"}),
        ({"event_type": "order"}, set()),
        ({"source": "/tests", "error": "teapot"}, {"f1"}),
        ({"source": "/elsewhere"}, set()),
        ({"backend": "default", "key": "g"}, {"g1"}),
        ({"backend": "nobody serves this"}, {"h1"}),
    ],
)
def test_a_selection_is_kept(each_state: str, conditions: dict[str, str], taken: set[str]) -> None:
    """An operation moves what its conditions say; also for an alias that is not configured."""
    events(each_state).filter(subject="f1").update(last_error="418: I am a teapot")
    publish("h1", using=each_state)
    events(each_state).filter(subject="h1").update(
        status="failed",
        publisher_backend="nobody serves this",
        source="/retired",
        event_type="bill.paid",
    )
    request("replay", each_state, **conditions)
    work_off(each_state)
    found = {name for name, state in statuses(each_state).items() if state == "scheduled"}
    assert found == {*taken, "b1"}


def test_moments_and_ids_are_kept(each_state: str) -> None:
    """A selection comes back from its JSON with all that was said."""
    first, second = events(each_state).filter(subject__in=["e1", "f1"]).order_by("id")
    long_ago = timezone.now() - timedelta(days=1000)
    events(each_state).filter(pk=second.pk).update(created_at=long_ago)
    since = timezone.now() - timedelta(days=1)
    operation = request("purge", each_state, ids=(first.pk, second.pk), since=since)
    assert (operation.start, operation.last) == (first.pk - 1, second.pk)
    work_off(each_state)
    assert not events(each_state).filter(pk=first.pk).exists()
    assert events(each_state).filter(pk=second.pk).exists()


def test_what_is_published_later_is_not_moved(database: str, chunks_of_two: None) -> None:
    """An operation is about what stood in the outbox when it was requested, and so it ends."""
    publish("a1", "a2", "a3", using=database)
    request("cancel", database)
    relay = Operations(database)
    step(relay)
    publish("a4", using=database)
    work_off(database)
    assert statuses(database) == {**dict.fromkeys(("a1", "a2", "a3"), "cancelled"), "a4": "pending"}


def test_an_event_whose_state_changed_is_left_alone(
    each_state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waited for a retry and is delivered at that moment is not delivered again."""
    operation = request("retry", each_state)
    move = rows.MOVES["retry"]

    def deliver_first(chunk: Any, **more: Any) -> int:
        events(each_state).filter(subject="c1").update(status="published")
        return move.run(chunk, **more)

    monkeypatch.setattr(rows, "MOVES", {"retry": replace(move, run=deliver_first)})
    work_off(each_state)
    operation.refresh_from_db()
    assert (operation.done, operation.left_alone) == (1, 1)
    assert statuses(each_state)["c1"] == "published"


# How it is done


def test_many_events_are_moved_in_short_transactions(database: str, chunks_of_two: None) -> None:
    """Each step moves a chunk and notes how far it is; relays take turns at will."""
    publish(*(f"a{number}" for number in range(5)), using=database)
    operation = request("cancel", database)
    done = []
    for relay in (Operations(database), Operations(database), Operations(database)):
        assert step(relay)
        operation.refresh_from_db()
        done.append((operation.done, operation.state, operation.progress))
    assert done == [(2, "running", 0.4), (4, "running", 0.8), (5, "done", 1.0)]
    assert not step(Operations(database))


@pytest.mark.parametrize("size", [1, 200])
def test_a_chunk_costs_the_same_however_many_events_it_has(database: str, size: int) -> None:
    """The turn, the lock, the ids, those that nobody has locked, the move, and how far it is."""
    publish_many(size, database, keys=3)
    request("cancel", database)
    with CaptureQueriesContext(connections[database]) as queries:
        step(Operations(database))
    assert count("cancelled", database) == size
    sql = [query["sql"] for query in queries]
    within = [one for one in sql if one.split()[0] in ("SELECT", "UPDATE")]
    assert len(within) == 6


def test_a_look_without_work_is_one_statement(database: str) -> None:
    """While there is no operation, a relay asks once in a while, and no more."""
    relay = Operations(database)
    with CaptureQueriesContext(connections[database]) as queries:
        relay.run()
        relay.run()
    assert len(queries) == 1


@pytest.mark.parametrize(("idle", "rest"), [(False, 4), (True, 1)], ids=["busy", "idle"])
def test_a_relay_rests_from_what_it_moved(
    database: str, chunks_of_two: None, idle: bool, rest: int
) -> None:
    """Deliveries get four fifths of its time, or half where there are none."""
    publish("a1", "a2", "a3", "a4", using=database)
    operation = request("cancel", database)
    relay = Operations(database)
    began = time.monotonic()
    relay.run(idle=idle)
    took = time.monotonic() - began
    assert began + rest * 0.5 * took < relay._next_at <= time.monotonic() + rest * took
    relay._next_at = time.monotonic() + 60
    relay.run(idle=idle)
    operation.refresh_from_db()
    assert operation.done == 2


def test_looks_grow_where_they_are_quick_and_shrink_where_they_are_slow() -> None:
    """A look is about as long whatever it has to read, and never without bound."""
    window = Window()
    window.took(0.01)
    assert window.ids == 2 * Window.FIRST
    window.took(0.1)
    assert window.ids == 2 * Window.FIRST
    window.took(3.0)
    assert window.ids == Window.FIRST
    for _ in range(30):
        window.took(0.0)
    assert window.ids == Window.MOST


def test_missing_ids_are_jumped(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old dead letter far below all others costs a step or two, not one for each range."""
    monkeypatch.setattr(Window, "FIRST", 10)
    monkeypatch.setattr(Window, "MOST", 10)
    _old, new = publish("a1", "a2", using=database)
    events(database).filter(pk=new.pk).update(id=new.pk + 10_000_000)
    operation = request("cancel", database)
    assert (operation.total, operation.total_is_exact) == (2, True)
    relay = Operations(database)
    assert sum(step(relay) for _ in range(6)) <= 4
    operation.refresh_from_db()
    assert (operation.state, operation.done) == ("done", 2)


def test_counting_takes_no_longer_than_it_may(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the time is up, the share that was seen stands for the rest, and that is said."""
    monkeypatch.setattr(Window, "FIRST", 10)
    monkeypatch.setattr(Window, "MOST", 10)
    publish_many(100, database, keys=3)
    everything = EventSelection()
    events(database).update(status="published")
    span = span_of(events(database), everything)
    assert estimate_of(events(database), "replay", everything, span) == (100, True)
    for seconds in (0.0001, -1):  # also where it is up at once: some are always looked at
        short = estimate_of(events(database), "replay", everything, span, seconds=seconds)
        assert not short.is_exact
        assert 90 <= short.events <= 110


@pytest.mark.parametrize("few", [100, 5], ids=["few", "many"])
def test_the_first_events_are_found_where_ever_they_are(
    database: str, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """A few dead letters among many others are counted exactly, and the first of them found."""
    monkeypatch.setattr(previews, "FEW", few)
    monkeypatch.setattr(Window, "FIRST", 10)
    publish_many(100, database, keys=10)
    third = events(database).filter(partition_key="k3").order_by("id")
    ids = list(third.values_list("id", flat=True))
    events(database).filter(partition_key__in=["k3", "k4"]).update(status="failed")
    wanted = EventSelection(key="k3")
    span = span_of(events(database), wanted)
    assert estimate_of(events(database), "retry", wanted, span) == (10, True)
    assert first_of(events(database), "retry", wanted, span, 3) == ids[:3]


def test_dead_letters_are_counted_by_their_index(committing: None) -> None:
    """PostgreSQL reads the index of their status, however many others there are."""
    connection = connections["default"]
    if connection.vendor != "postgresql":
        pytest.skip("needs PostgreSQL")
    publish_many(2000, "default", keys=100)
    events("default").filter(partition_key="k3").update(status="failed")
    events("default").exclude(partition_key="k3").update(status="published")
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE django_broadcaster_outboxevent")
    everything = EventSelection(status="failed")
    with CaptureQueriesContext(connection) as queries:
        span = span_of(events("default"), everything)
        assert estimate_of(events("default"), "retry", everything, span) == (20, True)
    looks = [each["sql"] for each in queries if "LIMIT" in each["sql"]]
    assert looks
    with connection.cursor() as cursor:
        for sql in looks:
            cursor.execute(f"EXPLAIN {sql}")
            plan = "\n".join(line for (line,) in cursor.fetchall())
            assert "broadcaster_failed" in plan, plan


def test_operations_take_turns_in_the_order_of_their_requests(
    database: str, chunks_of_two: None
) -> None:
    """Who cancels and then replays means it in that order, whoever does it."""
    publish("a1", "a2", "a3", using=database)
    first, second = request("cancel", database), request("replay", database)
    step(Operations(database))
    second.refresh_from_db()
    assert second.state == "waiting"
    work_off(database)
    for operation in (first, second):
        operation.refresh_from_db()
        assert (operation.state, operation.done) == ("done", 3)
    assert set(statuses(database).values()) == {"scheduled"}


def test_two_relays_move_each_event_once(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that are at it at the same time share the work."""
    monkeypatch.setattr(chunks, "CHUNK", 20)
    publish_many(600, database, keys=7)
    operation = request("cancel", database)
    start = Barrier(2)
    failures: list[BaseException] = []

    def work() -> None:
        relay = Operations(database)
        start.wait(10)
        try:
            while operation_of(operation).is_active:
                step(relay)
        except BaseException as error:
            failures.append(error)
        finally:
            connections.close_all()

    relays = [Thread(target=work) for _ in range(2)]
    for relay in relays:
        relay.start()
    for relay in relays:
        relay.join(60)
    assert failures == []
    operation.refresh_from_db()
    assert (operation.state, operation.done, operation.left_alone) == ("done", 600, 0)
    assert count("cancelled", database) == 600


def operation_of(operation: OutboxOperation) -> OutboxOperation:
    """Return it as it is now."""
    return OutboxOperation.objects.using(operation._state.db).get(pk=operation.pk)


# Stopped, failed, ended


def test_a_stop_leaves_it_where_it_is(database: str, chunks_of_two: None) -> None:
    """Nothing is moved after a stop, what was moved stays moved, and the next one has its turn."""
    publish("a1", "a2", "a3", "a4", using=database)
    operation, behind = request("cancel", database), request("purge", database)
    operations = OutboxOperation.objects.using(database)
    step(Operations(database))
    assert operations.stop(operation.pk, by="Grace")
    work_off(database)
    operation.refresh_from_db()
    assert (operation.state, operation.done, operation.stopped_by) == ("stopped", 2, "Grace")
    assert operation.finished_at is not None
    assert statuses(database) == {"a3": "pending", "a4": "pending"}
    assert operation_of(behind).state == "done"
    assert not operations.stop(operation.pk, by="Ada")
    operation.refresh_from_db()
    assert operation.stopped_by == "Grace"


@contextmanager
def referred_to(using: str, pk: int) -> Iterator[None]:
    """Let a table of somebody's refer to an event, so that the database refuses to delete it."""
    connection = connections[using]
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE tests_reference (event BIGINT NOT NULL, "
            "FOREIGN KEY (event) REFERENCES django_broadcaster_outboxevent (id))"
        )
        try:
            cursor.execute("INSERT INTO tests_reference VALUES (%s)", [pk])
            yield
        finally:
            cursor.execute("DROP TABLE tests_reference")


def test_what_the_database_refuses_again_and_again_has_failed(
    database: str, chunks_of_two: None
) -> None:
    """It is tried several times, with pauses, and then says why; those behind have their turn."""
    publish("a1", "a2", "a3", "a4", using=database)
    events(database).update(status="failed")
    third = events(database).get(subject="a3")
    operation, behind = request("purge", database), request("retry", database)
    relay = Operations(database)
    with referred_to(database, third.pk):
        assert step(relay)
        for attempt in range(1, rows.ATTEMPTS + 1):
            assert operation_of(operation).state == "running"
            OutboxOperation.objects.using(database).filter(pk=operation.pk).update(not_before=None)
            assert not step(relay)
            assert operation_of(operation).failures == attempt
            if attempt < rows.ATTEMPTS:  # before the pause is over nothing is tried
                assert not step(relay)
                assert operation_of(operation).failures == attempt
        work_off(database)
    operation.refresh_from_db()
    assert (operation.state, operation.done) == ("failed", 2)
    assert "IntegrityError" in operation.error
    assert statuses(database) == {"a3": "scheduled", "a4": "scheduled"}
    assert operation_of(behind).state == "done"


def test_an_error_shows_no_secret(database: str, settings: Settings) -> None:
    """What the database or an archive quotes of the settings is not kept."""
    entry = {"BACKEND": "tests.support.backends.ScriptedBackend"}
    settings.OUTBOX_PUBLISHERS = {"default": {**entry, "OPTIONS": {"password": "correct horse"}}}
    operation = request("cancel", database)
    error = DatabaseError("can't log in as ada with correct horse")
    rows.record_failure(OutboxOperation.objects.using(database), operation.pk, error, for_good=True)
    operation.refresh_from_db()
    assert operation.error == "DatabaseError: can't log in as ada with ***"


def test_trouble_that_passes_is_forgotten(database: str) -> None:
    """An operation goes on where it was when the database takes it again."""
    publish("a1", using=database)
    events(database).update(status="failed")
    operation = request("purge", database)
    relay = Operations(database)
    with referred_to(database, events(database).get().pk):
        assert not step(relay)
    OutboxOperation.objects.using(database).filter(pk=operation.pk).update(not_before=None)
    assert step(relay)
    operation.refresh_from_db()
    assert (operation.state, operation.done, operation.failures) == ("done", 1, 0)


def test_trouble_with_an_operation_holds_up_no_delivery(
    database: str, scripted: Script, join: Join
) -> None:
    """A relay whose operation the database refuses delivers as before."""
    publish("a1", using=database)
    events(database).update(status="failed")
    request("purge", database)
    with referred_to(database, events(database).get().pk):
        publish("b1", using=database)
        drain(join())
    assert scripted.arrived == ["b1"]


def test_a_relay_whose_operation_is_refused_notes_it_and_delivers(
    database: str, stream: Stream, workers: Workers
) -> None:
    """So it is in a process whose main thread has no connection of its own, too."""
    publish("a1", using=database)
    events(database).update(status="failed")
    operation = request("purge", database)
    with referred_to(database, events(database).get().pk):
        worker = workers.start(
            database, "--database", database, OUTBOX_PUBLISHERS=stream.publishers(REDIS)
        )
        wait_until(lambda: operation_of(operation).failures > 0, 20, "the refusal to be noted")
        publish("b1", using=database)
        wait_until(lambda: statuses(database)["b1"] == "published", 20, "the delivery")
        worker.stop()
        assert worker.end() == 0
    assert "is failing" not in worker.output


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"selection": {"colour": "red"}}, "selection: unknown conditions colour"),
        ({"kind": "paint"}, "kind: 'paint' is unknown"),
    ],
)
def test_an_operation_of_a_newer_version_fails_untouched(
    database: str, changes: dict[str, Any], words: str
) -> None:
    """A relay that does not understand it all moves nothing, and says what it is that it lacks."""
    publish("a1", using=database)
    operation = request("cancel", database)
    OutboxOperation.objects.using(database).filter(pk=operation.pk).update(**changes)
    assert not step(Operations(database))
    operation.refresh_from_db()
    assert operation.state == "failed"
    assert words in operation.error
    assert statuses(database) == {"a1": "pending"}


def test_the_end_of_an_operation_is_announced(database: str, chunks_of_two: None) -> None:
    """A receiver hears of it once, when its row says so."""
    heard = []

    def hear(operation: OutboxOperation, **_: Any) -> None:
        heard.append((operation.pk, operation_of(operation).state))

    operation_ended.connect(hear)
    try:
        publish("a1", "a2", "a3", using=database)
        operation = request("cancel", database)
        work_off(database)
    finally:
        operation_ended.disconnect(hear)
    assert heard == [(operation.pk, "done")]


def test_what_has_ended_is_kept_for_a_while(database: str) -> None:
    """The memory is as long as OUTBOX_HISTORY_RETENTION says; what has not ended stays."""
    publish("a1", using=database)
    old, young, open_ = (request("cancel", database) for _ in range(3))
    long_ago = timezone.now() - timedelta(days=8)
    operations = OutboxOperation.objects.using(database)
    operations.filter(pk=old.pk).update(state="done", finished_at=long_ago)
    operations.filter(pk=young.pk).update(state="done", finished_at=timezone.now())
    operations.filter(pk=open_.pk).update(requested_at=long_ago)
    assert Purge(database, "default").run() == 1
    assert set(operations.values_list("pk", flat=True)) == {young.pk, open_.pk}


# With deliveries


def test_dead_letters_of_a_key_come_again_in_publish_order(
    database: str, scripted: Script, join: Join, chunks_of_two: None, clock: Clock
) -> None:
    """Replayed chunk by chunk while the relay delivers, they arrive in the order of their key."""
    names = [f"a{number}" for number in range(1, 10)]
    for name in names:
        scripted.fail(name, Rejected("no"), times=1)
    publish(*names, using=database)
    loop = join()
    drain(loop)
    assert set(statuses(database).values()) == {"failed"}
    request("replay", database, status="failed")
    for _ in range(20):
        clock.advance(60)
        turn(loop, limit=3)
    assert scripted.arrived == names


def test_clocks_that_differ_do_not_change_the_order(
    database: str, monkeypatch: pytest.MonkeyPatch, chunks_of_two: None
) -> None:
    """Events are due in the order of their ids, though the relays' clocks say otherwise."""
    publish("a1", "a2", "a3", "a4", using=database)
    events(database).update(status="failed")
    request("replay", database)
    now = timezone.now()
    for moment in (now, now - timedelta(seconds=30)):
        monkeypatch.setattr(rows.timezone, "now", lambda moment=moment: moment)
        step(Operations(database))
    due = list(events(database).order_by("id").values_list("scheduled_at", flat=True))
    assert due == sorted(due)
    assert len(due) == 4


def test_a_pause_of_the_backend_does_not_hold_it_up(
    database: str, scripted: Script, join: Join
) -> None:
    """Operations go on while nothing is delivered."""
    publish("a1", using=database)
    pause(OutboxBackendState.objects.using(database).all(), "default")
    request("cancel", database)
    turn(join())
    assert statuses(database) == {"a1": "cancelled"}


def test_a_visitor_does_not_work_on_it(database: str, scripted: Script, join: Join) -> None:
    """`process_pending_events` may run in a request, which must not take longer for it."""
    publish("a1", using=database)
    events(database).update(status="failed")
    operation = request("purge", database)
    turn(join(takes_share=False))
    assert operation_of(operation).state == "waiting"


def test_an_idle_relay_finds_it_and_works_it_off(
    database: str, scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay that has slept for a while sees a request within a second or two, and is quick."""
    monkeypatch.setattr(chunks, "CHUNK", 50)
    with working(database, interval=0.5) as worker:
        publish("a1", using=database)
        wait_until(lambda: scripted.arrived == ["a1"], 10, "a delivery")
        wait_until(lambda: worker.worker._threads[0]._poll.is_idle, 10, "its pauses to have grown")
        publish_many(500, database, keys=5, backend="nobody serves this")
        request("cancel", database)
        wait_until(lambda: count("cancelled", database) == 500, 10, "the operation")


def test_a_drain_works_it_off(
    database: str, scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay from cron leaves no operation half-way, and delivers what it made due."""
    monkeypatch.setattr(chunks, "CHUNK", 2)
    publish(*(f"a{number}" for number in range(9)), using=database)
    events(database).update(status="failed")
    operation = request("replay", database)
    with working(database, drain=True) as worker:
        worker.end()
    assert operation_of(operation).state == "done"
    assert len(scripted.arrived) == 9


# Killed


class Ends:
    """An execute wrapper that lets the statement of that number fail, before or behind it."""

    def __init__(self, number: int, *, behind: bool) -> None:
        self.number, self.behind, self.seen, self.struck = number, behind, 0, False

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        self.seen += 1
        if self.seen != self.number:
            return execute(sql, params, many, context)
        self.struck = True
        if self.behind:
            execute(sql, params, many, context)
        raise Cut


class Cut(BaseException):
    """What ends a step as a kill would: nothing of ours catches it."""


@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
def test_a_step_that_ends_at_any_statement_has_no_effect(
    database: str, chunks_of_two: None, behind: bool
) -> None:
    """Cut off anywhere, a chunk is not moved, or moved and noted."""
    publish(*(f"a{number}" for number in range(20)), using=database)
    operation = request("cancel", database)
    for number in range(1, 12):
        cut = Ends(number, behind=behind)
        with connections[database].execute_wrapper(cut), suppress(Cut):
            step(Operations(database))
        connections[database].close()  # as that of a process that is gone
        operation.refresh_from_db()
        assert operation.done == count("cancelled", database)
        if not cut.struck:
            break
    assert number > 4, "it was never cut off"
    work_off(database)
    operation.refresh_from_db()
    assert (operation.state, operation.done, operation.left_alone) == ("done", 20, 0)


@pytest.mark.chaos
def test_relays_that_keep_being_killed_move_each_event_once(
    database: str, workers: Workers
) -> None:
    """However often the relay dies in the middle, the next one goes on where it was."""
    publish_many(12_000, database, keys=50, backend="nobody serves this")
    events(database).update(status="failed")
    operation = request("replay", database)
    random.seed(7)
    kills, before = 0, -1
    while operation_of(operation).is_active and kills < 4:
        worker = workers.start(database, "--database", database, OUTBOX_LEASE_SECONDS=2)
        wait_until(
            lambda seen=before: (
                operation_of(operation).done > seen  # type: ignore[misc]
                or not operation_of(operation).is_active
            ),
            30,
            "a step",
        )
        time.sleep(random.uniform(0, 0.2))  # somewhere in a step, or between two
        worker.kill()
        kills, before = kills + 1, operation_of(operation).done
    assert kills > 1
    workers.start(database, "--database", database, OUTBOX_LEASE_SECONDS=2)
    wait_until(lambda: not operation_of(operation).is_active, 60, "the end of the operation")
    operation.refresh_from_db()
    assert (operation.state, operation.done, operation.left_alone) == ("done", 12_000, 0)
    assert events(database).filter(status="scheduled", operation=operation.pk).count() == 12_000


def test_a_database_that_is_away_costs_no_attempt(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the connection is to blame for is the relay's trouble, and not the operation's."""
    publish("a1", using=database)
    operation = request("cancel", database)
    relay = Operations(database)
    cut = Ends(4, behind=False)
    monkeypatch.setattr(f"{__name__}.Cut", DatabaseError)
    monkeypatch.setattr(type(connections[database]), "is_usable", lambda self: False)
    with connections[database].execute_wrapper(cut), pytest.raises(DatabaseError):
        step(relay)
    monkeypatch.undo()
    operation.refresh_from_db()
    assert (operation.state, operation.failures) == ("waiting", 0)


def test_the_loop_leaves_it_to_the_owner_of_the_first_partition(
    database: str, scripted: Script, join: Join, clock: Clock
) -> None:
    """One relay of a backend looks for operations, so that many relays do not ask all the time."""
    first = join()
    turn(first)
    second = join()
    for loop in (first, second, first, second):
        turn(loop)
    assert isinstance(second, DeliveryLoop)
    assert [0 in loop.lease.partitions for loop in (first, second)].count(True) == 1
    publish("a1", using=database)
    events(database).update(status="failed")
    operation = request("purge", database)
    for loop in (first, second):
        clock.advance(60)
        if 0 not in loop.lease.partitions:
            turn(loop)
            assert operation_of(operation).state == "waiting"
    owner = first if 0 in first.lease.partitions else second
    clock.advance(60)
    turn(owner)
    assert operation_of(operation).state == "done"
