"""The commands that change many events: which they take, and what becomes of them."""

from __future__ import annotations

import io
import json
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.utils import timezone

from django_broadcaster.amounts import counted
from django_broadcaster.management import moving
from django_broadcaster.management.output import Progress
from django_broadcaster.models import OutboxEvent, OutboxOperation
from django_broadcaster.relay.loop import DeliveryLoop
from tests.support.events import publish, statuses
from tests.support.operations import AFTER, STATES, work_off
from tests.support.terminal import Terminal


def run(command: str, *arguments: str, **options: Any) -> str:
    """Run a command without questions and return what it printed."""
    out = io.StringIO()
    if command in AFTER:
        options = {"ask": False, **options}
    call_command(f"outbox_{command}", *arguments, stdout=out, stderr=io.StringIO(), **options)
    return out.getvalue()


@pytest.fixture
def events(database: str) -> str:
    """One event in each state; the value is the database's alias."""
    publish(*STATES, using=database)
    rows = OutboxEvent.objects.using(database)
    for name, status in STATES.items():
        rows.filter(subject=name).update(status=status)
    return database


@pytest.mark.parametrize("command", AFTER)
def test_each_event_is_changed_whose_state_fits(events: str, command: str) -> None:
    """Asked for all, a command takes those that it can be done to, and leaves the others alone."""
    printed = run(command, "--all", "--database", events)
    expected = {**STATES, **AFTER[command]}
    assert statuses(events) == {name: state for name, state in expected.items() if state}
    count = len(AFTER[command])
    assert printed == f"{command}: {count} of {counted(count, 'event')}\n"


def test_ids_name_single_events(events: str) -> None:
    """Ids take nothing else along."""
    row = OutboxEvent.objects.using(events).get(subject="f1")
    run("replay", str(row.pk), "--database", events)
    assert statuses(events) == {**STATES, "f1": "scheduled"}


def test_ids_that_do_not_fit_are_told(events: str) -> None:
    """Nothing done is no success: what is wrong with each that was named."""
    rows = OutboxEvent.objects.using(events)
    done, failed = (rows.get(subject=name).pk for name in ("e1", "f1"))
    out, err = io.StringIO(), io.StringIO()
    arguments = (str(done), str(failed), "999999", "--json", "--database", events)
    with pytest.raises(CommandError, match="The outbox has no event 999999; it may have been"):
        call_command("outbox_retry", *arguments, stdout=out, stderr=err)
    assert json.loads(out.getvalue()) == {"selected": 1, "changed": 1, "dry_run": False}
    told = f"Skipped: event {done} is published; retry needs one of: "
    assert told in err.getvalue()
    assert f"event {failed} " not in err.getvalue()


@pytest.mark.parametrize(
    ("condition", "taken"),
    [
        (["--status", "failed"], {"f1"}),
        (["--key", "e"], {"e1"}),
        (["--type", "order.*"], {"e1", "f1", "g1"}),
        (["--type", "order.placed", "--key", "g"], {"g1"}),
        (["--type", "invoice.*"], set()),
        (["--type", "Order.placed"], set()),
        (["--type", "Order.*"], set()),
        (["--type", "order.placed "], set()),
        (["--type", "order%"], set()),
        (["--source", "/tests"], {"e1", "f1", "g1"}),
        (["--source", "/Tests"], set()),
        (["--error", "teapot"], {"f1"}),
        (["--error", "Teapot"], set()),
        (["--error", "%teapot"], set()),
        (["--until", "2001-01-01"], {"g1"}),
        (["--since", "2001-01-01T00:00:00+00:00"], {"e1", "f1"}),
        (["--backend", "default"], {"e1", "f1", "g1"}),
    ],
)
def test_conditions_narrow_the_selection(
    events: str, condition: list[str], taken: set[str]
) -> None:
    """An event has to satisfy every condition."""
    rows = OutboxEvent.objects.using(events)
    rows.filter(subject="f1").update(last_error="418: I am a teapot")
    rows.filter(subject="g1").update(created_at=timezone.now() - timedelta(days=36500))
    run("replay", *condition, "--database", events)
    assert {name for name, state in statuses(events).items() if state == "scheduled"} == {
        *taken,
        "b1",
    }


def test_a_dry_run_changes_nothing(events: str) -> None:
    """It says how many there would be."""
    assert run("cancel", "--all", "--dry-run", "--database", events) == "5 events to cancel\n"
    assert statuses(events) == STATES


def test_the_result_can_be_had_as_json(events: str) -> None:
    """A program reads how many were selected and changed."""
    printed = json.loads(run("purge", "--all", "--json", "--database", events))
    assert printed == {"selected": 3, "changed": 3, "dry_run": False}


def test_many_events_are_changed_in_short_transactions(
    events: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than one chunk holds are all changed, once."""
    monkeypatch.setattr(moving, "CHUNK", 2)
    assert run("cancel", "--all", "--database", events) == "cancel: 5 of 5 events\n"
    assert statuses(events) == {**STATES, **AFTER["cancel"]}


def test_events_whose_backend_was_taken_out_can_be_put_away(events: str) -> None:
    """A backend that the settings don't know is one to select by while it has events."""
    OutboxEvent.objects.using(events).update(publisher_backend="audit")
    run("cancel", "--backend", "audit", "--database", events)
    assert statuses(events) == {**STATES, **AFTER["cancel"]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Select events by ids, by conditions, or with --all"),
        (["7", "--all"], "Ids and conditions exclude each other"),
        (["7", "--status", "failed"], "Ids and conditions exclude each other"),
        (
            ["--backend", "nope"],
            "Backend 'nope' is not configured; OUTBOX_PUBLISHERS has 'default'",
        ),
        (["--all", "--database", "nope"], "--database nope is not configured; DATABASES has"),
        (["--since", "soon"], "must be a time such as 2026-01-31T14:00, not 'soon'"),
        (["--status", "lost"], "invalid choice: 'lost'"),
        (
            ["--status", "failed", "--type", ""],
            "--type must not be empty; omit it to match any type",
        ),
        (["--status", "failed", "--key", ""], "--key must not be empty"),
        (["--status", "failed", "--backend", ""], "--backend must not be empty"),
        (["--type", "or*er"], "--type must have no asterisk except at its end"),
        (["--until", "9999-12-31T23:59:59-12:00"], "must be a time such as"),
        (["--since", "0001-01-01T00:00:00+12:00"], "must be a time such as"),
        (["--key", "\udcff"], r"key must be text that a database can store, not '\\udcff'"),
        (["--key", "a\0"], r"key must be text that a database can store, not 'a\\x00'"),
    ],
)
def test_a_wrong_selection_is_named(committing: None, arguments: list[str], words: str) -> None:
    """Nothing is changed by a command that does not say which events it is about."""
    with pytest.raises(CommandError, match=words):
        run("cancel", *arguments)


def test_who_interrupts_is_told_how_far_it_came(
    events: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends a long command between two transactions, without a traceback."""
    monkeypatch.setattr(moving, "CHUNK", 2)
    advance = Progress.advance

    def interrupted(progress: Progress, count: int) -> None:
        advance(progress, count)
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "advance", interrupted)
    with pytest.raises(CommandError, match="Interrupted after 2 of 5 events"):
        run("cancel", "--all", "--database", events)
    changed = [name for name, state in STATES.items() if statuses(events)[name] != state]
    assert len(changed) == 2


@pytest.mark.parametrize(("answer", "goes_on"), [("y", True), ("yes", True), ("", False)])
def test_a_person_is_asked(
    events: str, monkeypatch: pytest.MonkeyPatch, answer: str, goes_on: bool
) -> None:
    """On a terminal a selection by conditions is confirmed; anything but yes changes nothing."""
    questions = []
    monkeypatch.setattr("builtins.input", lambda text: questions.append(text) or answer)
    arguments = ("outbox_cancel", "--all", "--database", events)
    refused = (
        nullcontext() if goes_on else pytest.raises(CommandError, match="no events were changed")
    )
    with refused:
        call_command(*arguments, stdout=Terminal(), stderr=io.StringIO())
    assert questions == ["5 events to cancel. Continue? [y/N] "]
    assert (statuses(events) != STATES) is goes_on


@pytest.mark.parametrize("command", AFTER)
@pytest.mark.parametrize("background", [False, True])
def test_a_script_has_to_say_that_it_wants_no_question(
    events: str, command: str, background: bool
) -> None:
    """Without a terminal a selection by conditions needs `--no-input`, and nothing changes."""
    with pytest.raises(CommandError, match=r"no events were changed\. Add --no-input"):
        run(command, "--all", "--database", events, ask=True, background=background)
    assert statuses(events) == STATES
    assert not OutboxOperation.objects.using(events).exists()


def test_no_such_event_is_an_error(events: str) -> None:
    """An id without an event is named, and the exit status says so; the others are changed."""
    row = OutboxEvent.objects.using(events).get(subject="a1")
    out = io.StringIO()
    for ids in (["999999"], [str(row.pk), "999999"]):
        with pytest.raises(CommandError, match="The outbox has no event 999999") as caught:
            call_command("outbox_cancel", *ids, "--database", events, stdout=out)
        assert caught.value.returncode == 1
    assert out.getvalue() == "cancel: 1 of 1 event\n"
    assert statuses(events)["a1"] == "cancelled"


def test_who_can_not_answer_changes_nothing(events: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal with nobody at its keyboard, as with `< /dev/null`, is no consent."""
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(CommandError, match="no events were changed"):
        call_command("outbox_cancel", "--all", "--database", events, stdout=Terminal())
    assert statuses(events) == STATES


def test_long_work_shows_how_far_it_is() -> None:
    """A terminal gets a bar that fills up, on one line."""
    screen = Terminal()
    progress = Progress(screen, "cancel", 4)
    progress.advance(1)
    progress.advance(3)
    progress.end()
    first, last = screen.getvalue().strip("\r\n").split("\r")
    assert first == "cancel [" + "#" * 7 + "." * 23 + "] 1 of 4"
    assert last == "cancel [" + "#" * 30 + "] 4 of 4"


def test_progress_elsewhere_is_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log gets a line now and then, and nothing for work that is short."""
    log = io.StringIO()
    short = Progress(log, "cancel", 4)
    short.advance(4)
    short.end()
    assert log.getvalue() == ""
    monkeypatch.setattr("django_broadcaster.management.output.LINE_SECONDS", 0.0)
    Progress(log, "cancel", 2000).advance(1000)
    assert log.getvalue() == "cancel: 1,000 of 2,000\n"


# In the background


def test_in_the_background_only_the_request_is_written(events: str) -> None:
    """The command changes no event: it prints the id of an operation, which a relay works off."""
    printed = run("replay", "--key", "f", "--background", "--by", "Ada", "--database", events)
    operation = OutboxOperation.objects.using(events).get()
    assert printed == f"operation {operation.pk}: 1 event to replay\n"
    assert (operation.kind, operation.requested_by) == ("replay", "Ada")
    assert operation.selection == {"key": "f"}
    assert statuses(events) == STATES
    work_off(events)
    assert statuses(events) == {**STATES, "f1": "scheduled"}


@pytest.mark.parametrize("command", AFTER)
def test_the_background_does_the_same_as_the_command(events: str, command: str) -> None:
    """Whatever a command does at once, an operation does to the same events."""
    run(command, "--all", "--background", "--database", events)
    work_off(events)
    expected = {**STATES, **AFTER[command]}
    assert statuses(events) == {name: state for name, state in expected.items() if state}


def test_a_request_can_be_had_as_json(events: str) -> None:
    """A program reads the operation's id."""
    printed = json.loads(run("purge", "--all", "--background", "--json", "--database", events))
    operation = OutboxOperation.objects.using(events).get()
    assert printed == {"operation": operation.pk, "selected": 3, "is_exact": True}
    assert "@" in operation.requested_by


def test_ids_can_be_named_in_the_background(events: str) -> None:
    """Ids take nothing else along."""
    row = OutboxEvent.objects.using(events).get(subject="f1")
    run("replay", str(row.pk), "--background", "--database", events)
    work_off(events)
    assert statuses(events) == {**STATES, "f1": "scheduled"}


@pytest.mark.parametrize("runs", [True, False], ids=["a relay runs", "none runs"])
def test_a_request_without_a_relay_says_that_it_waits(events: str, runs: bool) -> None:
    """Where nobody would work on it, that is said at once."""
    err = io.StringIO()
    arguments = ("outbox_cancel", "--all", "--no-input", "--background", "--database", events)
    with DeliveryLoop(events, "default") if runs else nullcontext():
        call_command(*arguments, stdout=io.StringIO(), stderr=err)
    assert err.getvalue() == (
        "" if runs else "No relay is running; the operation starts when one does.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--all", "--dry-run"], "--background and --dry-run exclude each other"),
        ([*map(str, range(1, 1002))], "--background accepts at most 1,000 ids; use conditions"),
        ([], "Select events by ids, by conditions, or with --all"),
    ],
)
def test_a_wrong_request_is_named(arguments: list[str], words: str, committing: None) -> None:
    """Nothing is written down for a request that is not clear."""
    with pytest.raises(CommandError, match=words):
        run("cancel", *arguments, "--background")
    assert not OutboxOperation.objects.exists()


def test_operations_are_listed(events: str) -> None:
    """The newest first, with what they are about and how far they are; JSON has everything."""
    run("cancel", "--key", "a", "--background", "--by", "Ada", "--database", events)
    work_off(events)
    run("replay", "--all", "--background", "--by", "Grace", "--database", events)
    newest, oldest = OutboxOperation.objects.using(events).order_by("-id")
    lines = run("operations", "--database", events).splitlines()
    assert lines[1].split() == [
        *(str(newest.pk), "replay:", "all", "events", "waiting"),
        *("0", "4", "0%", "Grace", "-"),
    ]
    assert lines[2].split() == [
        *(str(oldest.pk), "cancel:", "key", "a", "done", "1", "1", "100%", "Ada", "-"),
    ]
    first, second = json.loads(run("operations", "--json", "--database", events))
    assert (first["id"], first["state"], first["progress"]) == (newest.pk, "waiting", 0)
    assert (second["selection"], second["done"], second["total"]) == ({"key": "a"}, 1, 1)


def test_the_status_lists_what_is_under_way(events: str) -> None:
    """Operations that have ended are not in it."""
    run("cancel", "--key", "a", "--background", "--database", events)
    assert "cancel: key a" in run("status", "--database", events)
    work_off(events)
    assert "cancel: key a" not in run("status", "--database", events)


def test_operations_are_stopped_by_id(events: str) -> None:
    """What is stopped says by whom, and nothing more is moved."""
    run("cancel", "--all", "--background", "--database", events)
    pk = str(OutboxOperation.objects.using(events).get().pk)
    assert "stopped" in run("operations", pk, "--stop", "--by", "Grace", "--database", events)
    work_off(events)
    assert statuses(events) == STATES
    assert OutboxOperation.objects.using(events).get().stopped_by == "Grace"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stop"], "--stop needs the ids of the operations"),
        (["7", "9", "--stop"], "No operation has the id 7, 9; it may have been purged"),
    ],
)
def test_a_stop_has_to_say_of_what(arguments: list[str], words: str, committing: None) -> None:
    """An id that there is not is named."""
    with pytest.raises(CommandError, match=words):
        run("operations", *arguments)
