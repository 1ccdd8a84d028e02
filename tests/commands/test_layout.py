"""The commands on a terminal: width, colour, lines of `outbox_tail`, and examples in the help."""

from __future__ import annotations

import io
import json
import re
import shlex
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command, load_command_class
from django.db import connections
from django.utils import timezone

from django_broadcaster.amounts import counted, duration
from django_broadcaster.management import commands
from django_broadcaster.management.commands import outbox_tail
from django_broadcaster.management.output import Bad, as_json, as_table
from django_broadcaster.models import OutboxAttempt, OutboxEvent
from tests.support.events import publish
from tests.support.terminal import Terminal
from tests.support.waiting import wait_until

COMMANDS = sorted(path.stem for path in Path(commands.__path__[0]).glob("outbox_*.py"))


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the terminal 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")


def on_terminal(command: str, *arguments: str) -> list[str]:
    """Run a command on a terminal and return the lines that it printed."""
    screen = Terminal()
    call_command(f"outbox_{command}", *arguments, stdout=screen)
    return screen.getvalue().splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_examples_that_parse(command: str) -> None:
    """Each of three examples is a call of the command, and has a line of its own in the help."""
    parser = load_command_class("django_broadcaster", command).create_parser("manage.py", command)
    _, _, shown = parser.format_help().partition("Examples:\n")
    examples = [shlex.split(line) for line in shown.splitlines()]
    assert len(examples) == 3
    for words in examples:
        assert words[:3] == ["python", "manage.py", command]
        parser.parse_args(words[3:])


@pytest.fixture
def busy(database: str) -> str:
    """Events that wait, are retried and have failed; the value is the database's alias."""
    publish("a1", "b1", "c1", using=database)
    rows = OutboxEvent.objects.using(database)
    rows.update(scheduled_at=timezone.now() - timedelta(hours=5), last_error="Busy: " + "x " * 200)
    rows.filter(subject="b1").update(status="retry")
    rows.filter(subject="c1").update(status="failed")
    OutboxAttempt.objects.using(database).create(
        row=rows.get(subject="b1").pk,
        number=1,
        attempted_at=timezone.now(),
        relay="a-long-name-of-a-host-in-a-cluster:12345",
        error="Busy: " + "later " * 40,
    )
    return database


@pytest.mark.parametrize(
    "command", ["status", "operations", "inspect", "health", "pause", "resume"]
)
def test_tables_fit_the_terminal(busy: str, command: str) -> None:
    """No line of a table is wider than 80 columns, and nothing of its words is lost."""
    call_command(
        "outbox_cancel",
        *("--type", "order.placed.by.somebody.from.far.away", "--background", "--no-input"),
        *("--by", "Ada: the prices of the whole catalogue were wrong"),
        *("--database", busy),
        stdout=io.StringIO(),
        stderr=io.StringIO(),
    )
    pk = str(OutboxEvent.objects.using(busy).get(subject="b1").pk)
    given = {"inspect": [pk], "pause": ["default"], "resume": ["default"]}.get(command, [])
    lines: list[str] = []
    screen = Terminal()
    try:
        call_command(f"outbox_{command}", *given, "--database", busy, stdout=screen)
    except SystemExit:
        assert command == "health"
    lines = screen.getvalue().splitlines()
    assert lines
    assert [line for line in lines if len(_plain(line)) > 80] == []
    if command == "inspect":
        assert screen.getvalue().count("later") == 40


def _plain(line: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", line)


def test_columns_without_a_value_go_first() -> None:
    """A table that is too wide leaves out columns of zeros, then wraps, then lists its rows."""
    row = {"backend": "default", "pending": 12, "blocked": 0, "state": "on"}
    assert "blocked" in as_table([row], width=40)
    assert "blocked" not in as_table([row], width=30)
    assert "pending" in as_table([row], width=30)
    text = {"field": "error", "value": "one two three four five six seven"}
    assert as_table([text], width=32).splitlines()[1:] == [
        "error  one two three four five",
        "       six seven",
    ]
    wide = {"what": "a" * 20, "state": "b" * 20, "number": 3}
    assert as_table([wide, wide], width=40).splitlines() == [
        *(f"what    {'a' * 20}", f"state   {'b' * 20}", "number  3", ""),
        *(f"what    {'a' * 20}", f"state   {'b' * 20}", "number  3"),
    ]


def test_elsewhere_a_table_is_whole() -> None:
    """Without a terminal no column is left out, however wide the table is."""
    wide = {"what": "a" * 100, "blocked": 0, "state": "b" * 100}
    assert as_table([wide]).splitlines()[1] == f"{'a' * 100}        0  {'b' * 100}"


def test_ids_are_as_other_commands_take_them(database: str) -> None:
    """`outbox_inspect` shows an id without separators of thousands."""
    (event,) = publish("a1", using=database)
    OutboxEvent.objects.using(database).filter(pk=event.pk).update(id=1_234_567)
    assert "id 1234567" in " ".join(
        on_terminal("inspect", "1234567", "--database", database)[1].split()
    )


def test_late_cells_are_marked(busy: str) -> None:
    """A figure over its limit says so, in colour on a terminal that has some."""
    screens = {}
    for given in (["--force-color"], ["--no-color"]):
        screens[given[0]] = Terminal()
        with pytest.raises(SystemExit):
            call_command(
                "outbox_status",
                *("--max-lag", "60", "--database", busy, *given),
                stdout=screens[given[0]],
            )
    assert "5 h LATE" in screens["--no-color"].getvalue()
    assert "\x1b[" not in screens["--no-color"].getvalue()
    assert re.search(r"\x1b\[[\d;]+m5 h LATE\x1b\[0m", screens["--force-color"].getvalue())


def test_colour_is_for_bad_cells_alone() -> None:
    """The colour begins and ends at the text, and the columns stay aligned."""
    rows = [{"ok": Bad("NO"), "why": "late"}, {"ok": "yes", "why": "-"}]
    assert as_table(rows, bad=lambda text: f"<{text}>").splitlines()[1:] == [
        "<NO>   late",
        "yes  -",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0304, "30.4 ms"),
        (0.9999, "1 s"),
        (3.14, "3.1 s"),
        (59.4, "59 s"),
        (59.7, "1 min"),
        (1234.1, "20 min 34 s"),
        (7200, "2 h"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_are_those_of_the_dashboard(seconds: float, text: str) -> None:
    """The two largest units that are not zero."""
    assert duration(seconds) == text


def test_one_is_no_plural() -> None:
    """A count agrees with its noun."""
    assert [counted(number, "event") for number in (0, 1, 2000)] == [
        *("0 events", "1 event", "2,000 events"),
    ]


@pytest.mark.parametrize("as_json", [False, True])
def test_tail_follows_failures(
    database: str, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    """Each failed attempt from now on is a line with its error; other events are not shown."""
    monkeypatch.setattr(outbox_tail, "POLL_SECONDS", 0.02)
    publish("a1", "b1", using=database)
    rows = {row.subject: row.pk for row in OutboxEvent.objects.using(database)}

    def fail(name: str, number: int) -> None:
        OutboxAttempt.objects.using(database).create(
            row=rows[name],
            number=number,
            attempted_at=timezone.now(),
            relay="host:7",
            error=f"Busy: try {number} " + "again " * 20,
        )

    fail("a1", 1)
    started, screen = threading.Event(), Terminal()
    poll = outbox_tail._Failures.poll

    def polled(failures: Any) -> Any:
        found = poll(failures)
        started.set()
        return found

    monkeypatch.setattr(outbox_tail._Failures, "poll", polled)
    arguments = ["--failures", "--key", "a", "--count", "2", "--database", database]

    def follow() -> None:
        try:
            call_command("outbox_tail", *arguments, *["--json"] * as_json, stdout=screen)
        finally:
            connections.close_all()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    assert started.wait(10)
    fail("b1", 1)
    fail("a1", 2)
    wait_until(lambda: "try 2" in screen.getvalue(), 10, "the first line")
    fail("a1", 3)
    thread.join(10)
    assert not thread.is_alive(), "not every failure was shown"
    lines = screen.getvalue().splitlines()
    assert [re.findall(r"try (\d)", line) for line in lines] == [["2"], ["3"]]
    if not as_json:
        assert {len(line) for line in lines} == {80}


def test_lines_of_tail_are_aligned() -> None:
    """Columns begin at the same place in each line; an id that does not fit is left out."""
    rows = [
        {
            "id": number,
            "publisher_backend": alias,
            "event_type": "order.placed",
            "partition_key": key,
            "event_id": "e" * 36,
            "published_at": timezone.now(),
        }
        for number, alias, key in ((7, "default", "a"), (1291, "audit", ""))
    ]
    wide, narrow = outbox_tail._Lines(None), outbox_tail._Lines(80)
    first, second = (wide.line(row) for row in rows)
    assert first.index("order.placed") == second.index("order.placed")
    assert first.index("eee") == second.index("eee")
    assert "1291" in second
    for row in rows:
        assert "eee" not in narrow.line(row)


def test_json_has_only_what_a_terminal_can_show() -> None:
    """Control characters and lone surrogates are escaped, and other text is not."""
    value = ["\x1b\x9b", "\ud800", "ä"]
    text = as_json(value, on_one_line=True)
    assert text == r'["\u001b\u009b", "\ud800", "ä"]'
    assert json.loads(text) == value
