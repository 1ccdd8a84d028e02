"""The history of an event: what persons did with it, and what that would have hidden."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_broadcaster.event_history import history_of
from django_broadcaster.models import OutboxAttempt, OutboxEvent, OutboxMove
from django_broadcaster.models.selection import EventSelection
from django_broadcaster.states import OutboxEventStatus as S
from django_broadcaster.store import request_operation
from tests.support.events import insert
from tests.support.operations import work_off


def written(database: str, status: str, **values: Any) -> OutboxEvent:
    """Write an event that was created an hour ago, and has ended a minute later, if it has."""
    created = timezone.now() - timedelta(hours=1)
    column = {S.PUBLISHED: "published_at", S.FAILED: "ended_at", S.CANCELLED: "ended_at"}.get(
        S(status)
    )
    ended = {column: created + timedelta(minutes=1)} if column else {}
    event = OutboxEvent(
        event_type="order.placed", source="/shop", event_id="1", publisher_backend="default",
        partition=0, status=status, created_at=created, **ended, **values,
    )  # fmt: skip
    insert(event, using=database)
    return event


def told(event: OutboxEvent) -> list[tuple[str, str]]:
    """Return the steps of an event, and who made each."""
    event.refresh_from_db()
    return [(step.what, step.who) for step, _gap in history_of(event)]


def run(command: str, *words: str, database: str) -> str:
    """Run a command without questions; return what it prints."""
    out = io.StringIO()
    call_command(command, *words, "--database", database, stdout=out, stderr=io.StringIO())
    return out.getvalue()


def test_replay_does_not_hide_the_first_delivery(database: str) -> None:
    """Both are in the history, with the person between them; nobody sees one long delay."""
    event = written(database, S.PUBLISHED)
    run("outbox_replay", str(event.pk), "--by", "Ada", database=database)
    OutboxEvent.objects.using(database).filter(pk=event.pk).update(
        status=S.PUBLISHED, published_at=timezone.now()
    )
    delivered = ("Delivered: the broker acknowledged it", "")
    replayed = ("Replayed (was delivered)", "Ada")
    assert told(event) == [("Created", ""), delivered, replayed, delivered]


@pytest.mark.parametrize(
    ("command", "before", "after"),
    [
        ("outbox_cancel", S.PENDING, "Cancelled (was pending)"),
        ("outbox_retry", S.RETRY, "Retried now (was retry)"),
        ("outbox_retry", S.FAILED, "Replayed (was dead)"),
        ("outbox_replay", S.CANCELLED, "Replayed (was cancelled)"),
    ],
)
def test_a_command_in_the_foreground_has_an_author(
    database: str, command: str, before: S, after: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By `--by`, else the account; in the history and in the log."""
    caplog.set_level("INFO", "django_broadcaster.operations")
    event = written(database, before)
    run(command, str(event.pk), "--by", "Ada", database=database)
    assert (after, "Ada") in told(event)
    assert f"{command.removeprefix('outbox_')} by Ada: 1 of 1 events" in caplog.text


def test_an_operation_and_its_requester_are_in_the_history(database: str) -> None:
    """A step has the operation's id, which pages link to."""
    event = written(database, S.FAILED)
    events = OutboxEvent.objects.using(database)
    operation = request_operation(events, "cancel", EventSelection(status="failed"), by="Ada")
    work_off(database)
    assert told(event)[-1] == (f"Cancelled (was dead), operation {operation.pk}", "Ada")
    assert OutboxMove.objects.using(database).get().operation == operation.pk


def test_a_dead_letter_says_after_how_many_attempts(database: str) -> None:
    """Those before it was given up, and not those after a replay."""
    event = written(database, S.FAILED)
    for number in (1, 2, 3):
        OutboxAttempt.objects.using(database).create(
            row=event.pk, number=number, relay="web-1:17", error="TransientError: no",
            attempted_at=event.created_at + timedelta(seconds=10 * number),
        )  # fmt: skip
    assert told(event)[-1] == ("Given up after 3 attempts", "")
    run("outbox_replay", str(event.pk), "--by", "Ada", database=database)
    OutboxAttempt.objects.using(database).create(
        row=event.pk, number=1, relay="web-1:17", error="no", attempted_at=timezone.now()
    )
    steps = [what for what, _who in told(event)]
    assert steps[4:6] == ["Given up after 3 attempts", "Replayed (was dead)"]
    assert "Attempt 1 failed" in steps[6:]


def test_inspect_shows_gaps_and_the_ids_of_what_is_linked(database: str) -> None:
    """The history in a terminal has what the page in the admin has."""
    event = written(database, S.PUBLISHED)
    run("outbox_replay", str(event.pk), "--by", "Ada", database=database)
    found = json.loads(run("outbox_inspect", str(event.pk), "--json", database=database))
    created, delivered, replayed, _due = found["history"]
    assert (created["after_seconds"], delivered["after_seconds"]) == (None, 60.0)
    assert replayed["by"] == "Ada"
    text = run("outbox_inspect", str(event.pk), database=database)
    assert "+1 min" in text


def test_a_move_takes_one_more_statement_however_many_events(database: str) -> None:
    """The history is copied within the database."""
    for _ in range(20):
        written(database, S.PENDING)
    with CaptureQueriesContext(connections[database]) as captured:
        OutboxEvent.objects.using(database).all().cancel(by="Ada")
    kinds = [query["sql"].split()[0] for query in captured if "outbox" in query["sql"]]
    assert kinds == ["INSERT", "UPDATE"]
    assert OutboxMove.objects.using(database).filter(moved_by="Ada").count() == 20


def test_an_empty_selection_moves_nothing(database: str) -> None:
    """Not even a statement that the database would refuse."""
    assert OutboxEvent.objects.using(database).filter(pk__in=[]).cancel() == 0
    assert OutboxEvent.objects.using(database).none().replay() == 0
