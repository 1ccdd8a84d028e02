"""Replays to handlers: the inbox skips those that processed an event, unless it forgets them."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import DatabaseError

from django_broadcaster.events import CloudEvent
from django_broadcaster.models import InboxEvent, OutboxEvent, OutboxOperation
from django_broadcaster.models.selection import EventSelection
from django_broadcaster.relay.loop import DeliveryLoop
from django_broadcaster.store import chunks, request_operation, result_of
from django_broadcaster.store import operations as store_operations
from tests.support.databases import ANY
from tests.support.events import publish, statuses
from tests.support.operations import step, work_off
from tests.support.registered import only_handlers
from tests.support.routing import OneDatabase

from .conftest import Join, drain

if TYPE_CHECKING:
    from pytest_django import Settings

LOCAL = "django_broadcaster.backends.LocalBackend"
LOCMEM = "django_broadcaster.backends.LocMemBackend"
MAIL, BILL = "replay.mail", "replay.bill"
NAMES = ("a1", "a2", "b1", "-1")
ONCE = {(name, handler): 1 for name in NAMES for handler in (MAIL, BILL)}


class Calls(Counter[tuple[str, str]]):
    """How often each handler ran for each event; the handler `failing` raises."""

    failing = ""

    def handler(self, name: str) -> Any:
        """Return a handler that counts its calls."""

        def handle(event: CloudEvent) -> None:
            if name == self.failing:
                raise ValueError("the template is broken")
            self[event.subject or "", name] += 1

        return handle


@pytest.fixture
def calls(database: str, settings: Settings) -> Iterator[Calls]:
    """Two handlers of each event, which a local backend runs beside a broker."""
    settings.DATABASE_ROUTERS = [OneDatabase(database)]
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": LOCAL}, "broker": {"BACKEND": LOCMEM}}
    settings.OUTBOX_ROUTES = {}
    found = Calls()
    with only_handlers({name: found.handler(name) for name in (MAIL, BILL)}):
        yield found


@pytest.fixture
def relay(calls: Calls, join: Join) -> DeliveryLoop:
    """The only relay of the local backend."""
    return join()


@pytest.fixture
def delivered(database: str, calls: Calls, relay: DeliveryLoop) -> Calls:
    """Four events that both handlers processed."""
    publish(*NAMES, using=database)
    drain(relay)
    assert set(statuses(database).values()) == {"published"}
    assert calls == ONCE
    return calls


def replay(database: str, *arguments: str) -> tuple[str, str]:
    """Run `outbox_replay`; return what it printed, and its warnings."""
    out, err = io.StringIO(), io.StringIO()
    arguments = (*arguments, "--no-input", "--database", database)
    call_command("outbox_replay", *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


@pytest.mark.parametrize("background", [False, True], ids=["at once", "in the background"])
@pytest.mark.parametrize(
    ("forget", "runs", "skipped"),
    [
        ([], (), 4),
        (["--forget-inbox", MAIL], (MAIL,), 0),
        (["--forget-inbox", MAIL, "--forget-inbox", BILL], (MAIL, BILL), 0),
        (["--forget-inbox", "all"], (MAIL, BILL), 0),
    ],
    ids=["none", "one", "both", "all"],
)
def test_replay_runs_the_handlers_that_the_inbox_forgets(
    database: str,
    delivered: Calls,
    relay: DeliveryLoop,
    forget: list[str],
    runs: tuple[str, ...],
    skipped: int,
    background: bool,
) -> None:
    """Those handlers run once more for each event, and the others do not run again."""
    arguments = ["--all", "--json", *forget, *(["--background"] if background else [])]
    out, err = replay(database, *arguments)
    result = json.loads(out)
    if background:
        work_off(database)
        operation = OutboxOperation.objects.using(database).get(pk=result["operation"])
        result["skipped"] = operation.skipped
    assert result["skipped"] == skipped
    remembered = [name for name in (MAIL, BILL) if name not in runs]
    assert ("will NOT run again" in err) is bool(remembered)
    assert all((name in err) is (name in remembered) for name in (MAIL, BILL))
    drain(relay)
    assert set(statuses(database).values()) == {"published"}
    assert delivered == {
        (name, handler): 1 + (handler in runs) for name in NAMES for handler in (MAIL, BILL)
    }


def request(database: str, *forget: str, **conditions: Any) -> Any:
    """Request a replay in the background."""
    events = OutboxEvent.objects.using(database)
    selection = EventSelection(**conditions)
    return request_operation(events, "replay", selection, by="Ada", forget_inbox=forget)


def test_outcome_counts_what_became_of_the_events(
    database: str, delivered: Calls, relay: DeliveryLoop
) -> None:
    """The operation says how many were delivered, failed, wait, and run no handler again."""
    events = OutboxEvent.objects.using(database)
    events.update(max_retries=0)
    publish("other", using=database, backend="broker")
    InboxEvent.objects.using(database).filter(event_id=events.get(subject="b1").event_id).delete()
    delivered.failing = BILL
    operation = request(database, backend="default")
    work_off(database)
    operation.refresh_from_db()
    assert (operation.done, operation.skipped) == (4, 3)
    assert result_of(events, operation) == (0, 0, 4, True)
    drain(relay)
    assert result_of(events, operation) == (3, 1, 0, True)
    assert statuses(database)["b1"] == "failed"


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_part_of_a_large_operation_is_counted(
    database: str, delivered: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without time to count all events, the outcome says that it is incomplete."""
    operation = request(database)
    work_off(database)
    operation.refresh_from_db()
    found = result_of(OutboxEvent.objects.using(database), operation, seconds=0)
    assert not found.is_complete


def test_forgetting_is_undone_with_its_replay(
    database: str, delivered: Calls, relay: DeliveryLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the transaction of a chunk fails, neither is there; when it is repeated, both are."""
    monkeypatch.setattr(chunks, "CHUNK", 2)
    operation = request(database, MAIL)
    operations = relay.rounds.operations
    move = store_operations._move

    def fail(*arguments: Any) -> None:
        move(*arguments)
        raise DatabaseError("the disk is full")

    monkeypatch.setattr(store_operations, "_move", fail)
    step(operations)
    notes = InboxEvent.objects.using(database)
    assert notes.filter(handler=MAIL).count() == 4
    assert set(statuses(database).values()) == {"published"}
    monkeypatch.undo()
    monkeypatch.setattr(chunks, "CHUNK", 2)
    type(operation).objects.using(database).update(not_before=None)
    step(operations)
    assert notes.filter(handler=MAIL).count() == 2
    assert notes.filter(handler=BILL).count() == 4
    assert sorted(statuses(database).values()) == ["published"] * 2 + ["scheduled"] * 2
    work_off(database)
    drain(relay)
    assert delivered == {**ONCE, **{(name, MAIL): 2 for name in NAMES}}


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_replay_to_a_broker_says_nothing_of_handlers(database: str, calls: Calls) -> None:
    """No handler runs for events to a broker, so there is nothing to skip or to forget."""
    publish("a1", using=database, backend="broker")
    OutboxEvent.objects.using(database).update(status="published")
    with pytest.raises(CommandError, match="--forget-inbox: no handler"):
        replay(database, "--backend", "broker", "--forget-inbox", MAIL)
    assert replay(database, "--backend", "broker") == ("replay: 1 of 1 event\n", "")


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_unknown_handler_to_forget_is_an_error(database: str, delivered: Calls) -> None:
    """A misspelt name changes nothing, and the handlers that there are are named."""
    with pytest.raises(CommandError, match=f"no handler 'replay.male'.*{MAIL}.*{BILL}"):
        replay(database, "--all", "--forget-inbox", "replay.male")
    assert set(statuses(database).values()) == {"published"}


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_result_says_what_the_inbox_skips(database: str, delivered: Calls) -> None:
    """The text of the command does not leave the impression that handlers ran."""
    out, _ = replay(database, "--all")
    assert out == (
        "replay: 4 of 4 events\n"
        "4 queued for delivery; the inbox skips 4 of them, because all their handlers already "
        "processed them\n"
    )
