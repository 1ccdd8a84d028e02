"""The commands that look: status, inspect, tail; and those that pause."""

from __future__ import annotations

import io
import json
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import Error, connections
from django.utils import timezone

from django_broadcaster.management.commands import outbox_status, outbox_tail
from django_broadcaster.models import (
    OutboxAttempt,
    OutboxBackendState,
    OutboxEvent,
    OutboxOperation,
    OutboxRelay,
)
from django_broadcaster.relay.log_safety import loggable
from django_broadcaster.relay.loop import DeliveryLoop
from django_broadcaster.store import MIGRATE, lacks_migration, overviews
from tests.support.events import publish
from tests.support.waiting import wait_until
from tests.support.workers import MANAGE, Workers, environment, starting_workers
from tools.launch import free_port

if TYPE_CHECKING:
    from pytest_django import Settings


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    """Starts `outbox_worker` processes, and ends them after the test."""
    with starting_workers(tmp_path) as started:
        yield started


def run(command: str, *arguments: str) -> str:
    """Run a command and return what it printed."""
    out = io.StringIO()
    call_command(f"outbox_{command}", *arguments, stdout=out)
    return out.getvalue()


def probed(command: str, *arguments: str) -> tuple[int, str]:
    """Return a command's exit status, and what it printed."""
    out = io.StringIO()
    try:
        call_command(f"outbox_{command}", *arguments, stdout=out)
    except SystemExit as end:
        return int(str(end.code)), out.getvalue()
    return 0, out.getvalue()


def as_json(command: str, *arguments: str) -> Any:
    """Run a command and return what it printed as JSON."""
    return json.loads(run(command, *arguments, "--json"))


def test_status_counts_what_waits(database: str) -> None:
    """Each backend's events by state, since when the first is due, and who delivers."""
    states = ("pending", "pending", "scheduled", "retry", "blocked", "failed", "published")
    names = [f"{letter}1" for letter in "abcdefg"]
    publish(*names, using=database)
    rows = OutboxEvent.objects.using(database)
    later = timezone.now() + timedelta(hours=1)
    for name, state in zip(names, states, strict=True):
        rows.filter(subject=name).update(status=state, scheduled_at=later)
    rows.filter(subject="b1").update(scheduled_at=timezone.now())
    rows.filter(subject="a1").update(scheduled_at=timezone.now() - timedelta(seconds=90))
    with DeliveryLoop(database, "default"):
        (found,) = as_json("status", "--database", database)
    counts = {name: found[name] for name in ("pending", "scheduled", "retry", "blocked", "failed")}
    assert counts == {"pending": 2, "scheduled": 1, "retry": 1, "blocked": 1, "failed": 1}
    assert 90 <= found["lag"] < 120
    assert (found["relays"], found["free_partitions"], found["paused_at"]) == (1, 64, None)


def test_an_event_that_nobody_promotes_is_late(database: str) -> None:
    """A scheduled event counts from its time on, also while no relay runs."""
    moment = timezone.now() + timedelta(hours=1)
    publish("a1", using=database, scheduled_at=moment)
    (found,) = overviews(database, ["default"])
    assert (found.scheduled, found.lag, found.oldest_due) == (1, 0.0, None)
    OutboxEvent.objects.using(database).update(scheduled_at=timezone.now() - timedelta(seconds=5))
    (found,) = overviews(database, ["default"])
    assert 5 <= found.lag < 60


def test_a_late_event_does_not_hide_behind_a_fresh_one(database: str) -> None:
    """One that was scheduled or is replayed has a lower id than what has been due for long."""
    publish("a1", "b1", using=database)
    rows = OutboxEvent.objects.using(database)
    rows.filter(subject="b1").update(scheduled_at=timezone.now() - timedelta(hours=2))
    (found,) = overviews(database, ["default"])
    assert 7200 <= found.lag < 7300


def test_status_tells_of_an_event_that_keeps_failing(database: str) -> None:
    """It is not due between its attempts; its age is told, and may be the exit status."""
    publish("a1", "b1", using=database)
    rows = OutboxEvent.objects.using(database)
    rows.update(status="retry", scheduled_at=timezone.now() + timedelta(minutes=1))
    rows.filter(subject="a1").update(created_at=timezone.now() - timedelta(hours=2))
    arguments = ("--database", database, "--max-retry-age", "3600")
    with pytest.raises(SystemExit) as caught:
        run("status", *arguments)
    assert caught.value.code == outbox_status.LATE
    rows.filter(subject="a1").delete()
    (found,) = as_json("status", *arguments)
    assert (found["lag"], 0 <= found["retry_age"] < 60) == (0, True)


def test_status_says_that_a_broker_is_away(database: str) -> None:
    """Since when, and why; a relay that is dead is neither counted nor believed."""
    with DeliveryLoop(database, "default"):
        relay = OutboxRelay.objects.using(database)
        since = timezone.now() - timedelta(seconds=90)
        relay.update(circuit_open_since=since, circuit_error="[Errno 111] refused")
        said = run("status", "--database", database)
        assert " 1  broker unavailable\n" in said
        assert "default: Broker unavailable for 1 min 3" in said
        assert "s: [Errno 111] refused" in said
        relay.update(heartbeat_at=timezone.now() - timedelta(minutes=5))
        assert " 0  no relay\n" in run("status", "--database", database)


@pytest.mark.parametrize("status", ["pending", "scheduled", "retry", "blocked", "failed"])
def test_status_tells_of_a_backend_that_was_taken_out(database: str, status: str) -> None:
    """As long as there are events to it that are not done, whatever their state."""
    publish("a1", "b1", using=database)
    rows = OutboxEvent.objects.using(database)
    rows.update(publisher_backend="audit", status=status)
    rows.filter(subject="b1").update(publisher_backend="Audit")
    configured, upper, lower = as_json("status", "--database", database)
    assert [each["backend"] for each in (configured, upper, lower)] == ["default", "Audit", "audit"]
    assert lower[status] == 1
    assert "audit: The backend is not in OUTBOX_PUBLISHERS" in run("status", "--database", database)
    rows.update(status="published")
    assert len(as_json("status", "--database", database)) == 1


@pytest.mark.parametrize("command", ["status", "health", "operations"])
def test_a_missing_migration_is_called_by_its_name(
    database: str, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """One line that names the command to run, and no traceback of a database's error."""
    monkeypatch.setattr("django_broadcaster.store.overview.EVENTS", "django_broadcaster_gone")
    monkeypatch.setattr(OutboxOperation._meta, "db_table", "django_broadcaster_gone")
    if command == "health":
        out = io.StringIO()
        with pytest.raises(SystemExit):
            call_command("outbox_health", "--database", database, stdout=out)
        assert "run manage.py migrate" in out.getvalue()
        return
    with pytest.raises(CommandError, match=r"run manage\.py migrate"):
        run(command, "--database", database)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 FROM {}_gone",
        "SELECT gone FROM {}",
        "SELECT {}.gone FROM {}",
        "UPDATE {} SET gone=1",
    ],
)
def test_what_is_missing_is_told_from_other_trouble(database: str, sql: str) -> None:
    """A table or a column that is not there means a migration; a wrong statement does not."""
    with pytest.raises(Error) as caught, connections[database].cursor() as cursor:
        cursor.execute(sql.replace("{}", "django_broadcaster_outboxrelay"))
    assert lacks_migration(caught.value)
    assert MIGRATE in loggable(caught.value)
    with pytest.raises(Error) as caught, connections[database].cursor() as cursor:
        cursor.execute("SELEKT 1")
    assert not lacks_migration(caught.value)


def test_status_is_a_table_for_people(database: str, settings: Settings) -> None:
    """One line for each backend, under a title for each column."""
    settings.OUTBOX_PUBLISHERS = {
        alias: {"BACKEND": "django_broadcaster.backends.LocMemBackend"}
        for alias in ("audit", "orders")
    }
    publish("a1", using=database, backend="orders")
    title, audit, orders, *why = run("status", "--database", database).splitlines()
    assert title.split() == [
        *("backend", "pending", "scheduled", "retry", "blocked", "failed"),
        *("oldest", "waiting", "oldest", "retry", "relays", "state"),
    ]
    assert audit.split() == ["audit", *"00000", "-", "-", "0", "no", "relay"]
    assert orders.split()[:3] == ["orders", "1", "0"]
    assert [line.split(": ")[0] for line in why if line] == ["audit", "orders"]
    with DeliveryLoop(database, "audit") as loop:
        loop.turn(10)
        shown = run("status", "--backend", "audit", "--database", database).splitlines()
    assert [line.split()[0] for line in shown] == ["backend", "audit"]
    assert shown[1].endswith(" up to date")


def test_large_counts_stop(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than are counted exactly are shown as that many and more."""
    monkeypatch.setattr("django_broadcaster.store.overview.EXACT", 2)
    publish("a1", "b1", "c1", using=database)
    assert " 2+ " in run("status", "--database", database)


@pytest.mark.parametrize(("bound", "code"), [("60", outbox_status.LATE), ("3600", 0)])
def test_status_exits_for_a_probe(database: str, bound: str, code: int) -> None:
    """Its exit status says whether an event has been due for longer than the bound."""
    publish("a1", using=database)
    OutboxEvent.objects.using(database).update(scheduled_at=timezone.now() - timedelta(minutes=5))
    arguments = ("status", "--max-lag", bound, "--database", database)
    status, printed = probed(*arguments)
    assert (status, " LATE " in printed) == (code, bool(code))


@pytest.mark.parametrize(("bound", "code"), [("1", outbox_status.LATE), ("2", 0)])
def test_status_exits_for_dead_letters(database: str, bound: str, code: int) -> None:
    """More than `--max-failed` of them are an exit status, and marked."""
    publish("a1", "b1", using=database)
    OutboxEvent.objects.using(database).update(status="failed")
    status, printed = probed("status", "--max-failed", bound, "--database", database)
    assert (status, " 2 HIGH " in printed) == (code, bool(code))


@pytest.mark.parametrize("command", ["status", "health"])
@pytest.mark.parametrize("bound", ["nan", "-1", "soon"])
def test_a_bound_that_is_none_is_refused(command: str, bound: str) -> None:
    """Nothing is later than `nan`: a probe with it would be content for ever."""
    with pytest.raises(CommandError, match="must be a number of seconds, 0 or more"):
        run(command, f"--max-lag={bound}")


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("tail", ["--count=0"]),
        ("retry", [str(2**63)]),
        ("operations", [str(2**63)]),
        ("worker", ["--health-port=65536"]),
        ("worker", ["--metrics-port=0"]),
    ],
)
def test_a_number_out_of_its_range_is_refused(command: str, arguments: list[str]) -> None:
    """Before anything is begun, with the range, instead of in the midst of it."""
    with pytest.raises(CommandError, match=r"must be a whole number from 1 to "):
        run(command, *arguments)


def test_a_paused_backend_is_not_late(database: str) -> None:
    """Who pauses a backend does not want to be woken because it stands still."""
    publish("a1", using=database)
    OutboxEvent.objects.using(database).update(scheduled_at=timezone.now() - timedelta(minutes=5))
    run("pause", "default", "--by", "Ada: the broker moves", "--database", database)
    printed = run("status", "--max-lag", "60", "--database", database)
    _, row, _, why = printed.splitlines()
    assert row.endswith("paused")
    assert "LATE" not in row
    assert why.startswith("default: Paused for ")
    assert why.endswith("by Ada: the broker moves")
    (found,) = as_json("status", "--database", database)
    assert found["paused_by"] == "Ada: the broker moves"


def test_pause_and_resume_say_what_they_did(database: str) -> None:
    """Done twice, they change nothing the second time, and say so."""
    results = [
        as_json(command, "default", "--database", database)[0]["now"]
        for command in ("pause", "pause", "resume", "resume")
    ]
    assert results == ["paused", "already paused", "resumed", "not paused"]
    state = OutboxBackendState.objects.using(database).get()
    assert (state.paused_at, state.paused_by) == (None, "")


@pytest.mark.parametrize("command", ["pause", "resume", "status", "tail"])
def test_an_unknown_backend_is_named(command: str) -> None:
    """A typing error pauses nothing."""
    arguments = ["nope"] if command in ("pause", "resume") else ["--backend", "nope"]
    with pytest.raises(
        CommandError, match="Backend 'nope' is not configured; OUTBOX_PUBLISHERS has 'default'"
    ):
        run(command, *arguments)


def test_inspect_shows_one_event(database: str) -> None:
    """Its columns and its failed attempts, and its payload only if asked for."""
    (event,) = publish("a1", using=database)
    OutboxAttempt.objects.using(database).create(
        row=event.pk, number=1, attempted_at=timezone.now(), relay="host:7", error="Busy: later"
    )
    found = as_json("inspect", str(event.pk), "--database", database)
    assert found["event"]["event_id"] == event.event_id
    assert [each["error"] for each in found["failed_attempts"]] == ["Busy: later"]
    assert "message" not in found
    text = run("inspect", str(event.pk), "--database", database)
    assert "Busy: later" in text
    assert '"name": "a1"' not in text
    shown = as_json("inspect", str(event.pk), "--payload", "--database", database)
    assert shown["message"]["data"] == {"name": "a1"}
    assert '"name": "a1"' in run("inspect", str(event.pk), "--payload", "--database", database)


def test_inspect_takes_the_id_that_consumers_know(database: str) -> None:
    """The id of a CloudEvent finds its event; where there are several, their rows are named."""
    publish("a1", "b1", using=database)
    rows = OutboxEvent.objects.using(database)
    first, second = rows.order_by("pk")
    for wanted in (first.event_id, str(first.pk)):
        found = as_json("inspect", wanted, "--database", database)
        assert found["event"]["id"] == first.pk
    rows.filter(pk=second.pk).update(event_id=first.event_id, publisher_backend="audit")
    with pytest.raises(CommandError, match=f"{first.pk} to 'default', {second.pk} to 'audit'"):
        run("inspect", first.event_id, "--database", database)
    rows.filter(pk=second.pk).update(event_id="12345678901234567890")
    found = as_json("inspect", "12345678901234567890", "--database", database)
    assert found["event"]["id"] == second.pk


def test_inspect_tells_ids_apart_by_case(database: str) -> None:
    """CloudEvents ids differ by case and spaces, whatever the database thinks of them."""
    publish("a1", "b1", "c1", using=database)
    rows = OutboxEvent.objects.using(database)
    for name, event_id in {"a1": "abc", "b1": "ABC", "c1": "abc "}.items():
        rows.filter(subject=name).update(event_id=event_id)
        found = as_json("inspect", event_id, "--database", database)
        assert found["event"]["subject"] == name


@pytest.mark.parametrize("wanted", ["7", "9" * 5000, "Nobody"])
def test_inspect_says_that_there_is_no_such_event(database: str, wanted: str) -> None:
    """An event may have been purged."""
    with pytest.raises(CommandError, match=f"no event {wanted}; it may have been purged"):
        run("inspect", wanted, "--database", database)


@contextmanager
def following(database: str, count: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Follow so many events from now on; gives what is printed, and waits for the end."""
    monkeypatch.setattr(outbox_tail, "POLL_SECONDS", 0.02)
    out, started = io.StringIO(), threading.Event()
    poll = outbox_tail._Window.poll

    def polled(window: Any) -> Any:
        found = poll(window)
        started.set()
        return found

    monkeypatch.setattr(outbox_tail._Window, "poll", polled)
    arguments = ("--json", "--count", str(count), "--database", database)

    def follow() -> None:
        try:
            call_command("outbox_tail", *arguments, stdout=out)
        finally:
            connections.close_all()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    assert started.wait(10)
    yield out
    thread.join(10)
    assert not thread.is_alive(), "not every event was shown"


def shown(out: io.StringIO) -> list[str]:
    """Return the keys of the events that were printed."""
    return [json.loads(line)["partition_key"] for line in out.getvalue().splitlines()]


def test_tail_follows_what_is_delivered(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event comes once, as it is delivered, also one that had a lower id and was late."""
    publish("a1", "b1", "c1", using=database)
    _deliver(database, "b1")
    with following(database, 2, monkeypatch) as out:
        _deliver(database, "c1")
        wait_until(lambda: '"id"' in out.getvalue(), 10, "a line")
        _deliver(database, "a1")
    assert shown(out) == ["c", "a"]


@pytest.mark.parametrize("status", ["failed", "scheduled", "retry", "blocked"])
def test_tail_shows_an_old_event_that_is_delivered_at_last(
    database: str, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """What was given up or waited before it began, or was left behind since, is followed, too."""
    monkeypatch.setattr(outbox_tail, "LATE_IDS", 0)
    publish("a1", "b1", "c1", "d1", using=database)
    rows = OutboxEvent.objects.using(database)
    rows.filter(subject="a1").update(status=status)
    with following(database, 3, monkeypatch) as out:
        rows.filter(subject="b1").update(status=status)
        _deliver(database, "c1")
        wait_until(lambda: shown(out) == ["c"], 10, "the first line")
        _deliver(database, "a1")
        wait_until(lambda: shown(out) == ["c", "a"], 10, "the second line")
        _deliver(database, "b1")
    assert shown(out) == ["c", "a", "b"]


def test_tail_shows_what_is_delivered_again(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay of an event that was just delivered, or that it has shown, is shown, too."""
    publish("a1", "b1", using=database)
    rows = OutboxEvent.objects.using(database)
    _deliver(database, "a1")
    with following(database, 3, monkeypatch) as out:
        _deliver(database, "b1")
        wait_until(lambda: shown(out) == ["b"], 10, "the first line")
        for name in ("a1", "b1"):
            rows.filter(subject=name).update(status="scheduled")
            _deliver(database, name)
    assert shown(out) == ["b", "a", "b"]


def test_tail_has_room_for_what_is_left_behind(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many dead letters there are, an event that has to wait while others go on is seen."""
    monkeypatch.setattr(outbox_tail, "LATE_IDS", 0)
    monkeypatch.setattr(outbox_tail, "MOST_WATCHED", 3)
    publish("f1", "f2", "f3", "f4", "a1", "b1", using=database)
    rows = OutboxEvent.objects.using(database)
    rows.filter(partition_key="f").update(status="failed")
    events = rows.all()
    window = outbox_tail._Window(events, events)
    rows.filter(subject="a1").update(status="retry")
    assert window.poll() == []
    _deliver(database, "a1")
    assert [row["partition_key"] for row in window.poll()] == ["a"]
    assert len(window._watched) == 3


def test_tail_looks_at_no_more_than_it_has_to_behind_a_paused_backend(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that stays pending does not keep everything behind it in sight, and is not lost."""
    monkeypatch.setattr(outbox_tail, "LATE_IDS", 0)
    monkeypatch.setattr(outbox_tail, "MOST_SHOWN", 4)
    publish("p1", *(f"a{number}" for number in range(20)), using=database)
    events = OutboxEvent.objects.using(database).all()
    window = outbox_tail._Window(events, events)
    found: list[str] = []
    for number in range(20):
        _deliver(database, f"a{number}")
        found += [row["partition_key"] for row in window.poll()]
        assert len(window._shown) <= 5
    _deliver(database, "p1")
    found += [row["partition_key"] for row in window.poll()]
    assert found == ["a"] * 20 + ["p"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--type", ""], "--type must not be empty"),
        (["--key", ""], "--key must not be empty"),
        (["--type", "or*er"], "--type must have no asterisk except at its end"),
    ],
)
def test_tail_names_a_wrong_condition(committing: None, arguments: list[str], words: str) -> None:
    """It does not follow other events than were meant."""
    with pytest.raises(CommandError, match=words):
        run("tail", *arguments)


def test_tail_ends_quietly_when_nobody_reads_it(database: str) -> None:
    """`outbox_tail | head` shows some events and no traceback."""
    tail = subprocess.Popen(
        [sys.executable, str(MANAGE), "outbox_tail", "--database", database],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(database, {}),
    )
    assert tail.stdout is not None

    def deliver_one() -> None:
        (event,) = publish("a1", using=database)
        OutboxEvent.objects.using(database).filter(pk=event.pk).update(
            status="published", published_at=timezone.now()
        )

    def is_shown() -> bool:
        deliver_one()  # another each time: what was delivered before it began is not shown
        return bool(select.select([tail.stdout], [], [], 1.0)[0])

    try:
        wait_until(is_shown, 30, "a line")
        tail.stdout.close()
        deliver_one()
        _, errors = tail.communicate(timeout=30)
    finally:
        tail.kill()
    assert (tail.returncode, errors) == (0, "")


def _deliver(database: str, name: str) -> None:
    """Mark an event as delivered now, unless it is."""
    rows = OutboxEvent.objects.using(database).filter(subject=name).exclude(status="published")
    rows.update(status="published", published_at=timezone.now())


def test_status_tells_a_terminal_nothing_either(database: str) -> None:
    """What keeps a broker away is in its own words, too."""
    with DeliveryLoop(database, "default") as loop:
        loop.lease.show_circuit("gone\x1b[2J\nall is well")
        printed = run("status", "--database", database)
    assert r"gone\x1b[2J\nall is well" in printed


@pytest.mark.parametrize("command", [["status"], ["retry", "--all"], ["tail"], ["inspect", "1"]])
def test_a_database_that_is_away_is_one_line(
    committing: None, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    """Where it is, and why it can't be asked, instead of two tracebacks."""
    connection = connections["default"]
    if connection.vendor == "sqlite":
        pytest.skip("a file is never away")
    connection.close()
    with monkeypatch.context() as patch:
        patch.setitem(connection.settings_dict, "PORT", str(free_port()))
        with pytest.raises(CommandError, match="Database query failed: ") as caught:
            run(*command)
    connection.close()
    assert "\n" not in str(caught.value)


def test_without_time_zones_the_outbox_works(database: str, workers: Workers) -> None:
    """With USE_TZ off rows hold local time; a relay delivers, and the commands tell the truth."""
    settings: Any = {
        "USE_TZ": False,
        "TIME_ZONE": "Asia/Tokyo",
        "OUTBOX_PUBLISHERS": {"default": {"BACKEND": "django_broadcaster.backends.DummyBackend"}},
    }
    worker = workers.start(database, "--database", database, **settings)
    for name in ("a1", "b1"):  # one after the other: the second shows that the first was settled
        publish(name, using=database)
        rows = OutboxEvent.objects.using(database).filter(subject=name, status="published")
        wait_until(rows.exists, 30, f"{name} to be delivered")
    publish("c1", using=database, scheduled_at=timezone.now() + timedelta(days=2))
    for command in ("outbox_status", "outbox_health"):
        done = subprocess.run(
            [sys.executable, str(MANAGE), command, "--json", "--database", database],
            capture_output=True,
            text=True,
            env=environment(database, settings),
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
    worker.stop()
    assert worker.end() == 0
    assert "Traceback" not in worker.output


def test_a_terminal_is_told_nothing_by_an_error(database: str) -> None:
    """What a broker answered is shown with its control characters escaped, as JSON as well."""
    hostile = "\x1b]0;owned\x07 \x9b2J\r\nall is well \u202e"
    (row,) = publish("a1", using=database)
    OutboxAttempt.objects.using(database).create(
        row=row.pk, number=1, attempted_at=timezone.now(), relay=hostile, error=hostile
    )
    OutboxEvent.objects.using(database).update(status="failed", last_error=hostile)
    arguments = ("inspect", str(row.pk), "--database", database)
    for printed in (run(*arguments), run(*arguments, "--json")):
        assert not [each for each in printed.replace("\n", "") if "\x7f" <= each <= "\x9f"]
        assert not [each for each in printed.replace("\n", "") if each < " "]
    assert r"\x1b]0;owned\x07 \x9b2J\r\nall is well \u202e" in run(*arguments)
    assert as_json(*arguments)["event"]["last_error"] == hostile
