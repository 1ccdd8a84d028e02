"""No statement of a command reads the whole outbox where an index can answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from django_broadcaster.models import OutboxEvent, OutboxPartition
from tests.support.events import publish_many

TABLE = OutboxEvent._meta.db_table
ROWS = 3000

ONE_ID: dict[str, tuple[str, str, int]] = {
    # the command, the status of the event, and its most statements about events; a move of an event
    # takes two, since its history is written, too
    "retry": ("outbox_retry {id} --no-input", "failed", 7),
    "retry, dry": ("outbox_retry {id} --dry-run", "failed", 1),
    "cancel": ("outbox_cancel {id} --no-input", "pending", 5),
    "replay": ("outbox_replay {id} --no-input", "published", 5),
    "purge": ("outbox_purge {id} --no-input", "published", 6),
    "one that does not fit": ("outbox_retry {id}", "published", 2),
    "one that there is not": ("outbox_retry 99999999", "published", 2),
    "background": ("outbox_retry {id} --background", "failed", 5),
    "inspect": ("outbox_inspect {id}", "published", 1),
}
CONDITIONS: dict[str, tuple[str, str]] = {
    "all dead letters": ("outbox_retry --all --no-input", "failed"),
    "dead letters of a backend": ("outbox_retry --backend default --no-input", "failed"),
    "dead letters of a type": ("outbox_retry --type order.* --dry-run", "failed"),
    "what waits": ("outbox_cancel --status retry --no-input", "retry"),
    "a backend that is not configured": ("outbox_cancel --backend gone --dry-run", "pending"),
    "status": ("outbox_status", "failed"),
    "health": ("outbox_health", "pending"),
}


@pytest.fixture
def large(database: str) -> str:
    """A database whose outbox is mostly delivered, and whose statistics say so."""
    publish_many(ROWS, database, keys=50)
    OutboxEvent.objects.using(database).update(status="published")
    words = {"postgresql": "VACUUM ANALYZE {}", "mysql": "ANALYZE TABLE {}", "sqlite": "ANALYZE {}"}
    with connections[database].cursor() as cursor:
        cursor.execute(words[connections[database].vendor].format(TABLE))
    return database


@contextmanager
def explained(database: str) -> Iterator[list[tuple[str, str]]]:
    """Collect each statement about events with its plan."""
    found: list[tuple[str, str]] = []
    vendor = connections[database].vendor
    word = "EXPLAIN QUERY PLAN" if vendor == "sqlite" else "EXPLAIN"

    def explain(
        execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]
    ) -> Any:
        if TABLE in sql and not many:
            execute(f"{word} {sql}", params, many, context)
            rows = context["cursor"].fetchall()
            found.append((sql, "\n".join(" ".join(map(str, row)) for row in rows)))
        return execute(sql, params, many, context)

    with connections[database].execute_wrapper(explain):
        yield found


def reads_all(plan: str, vendor: str) -> bool:
    """Return True if a plan goes over all events."""
    if vendor == "postgresql":
        return f"Seq Scan on {TABLE}" in plan
    if vendor == "sqlite":
        lines = [line for line in plan.splitlines() if f"SCAN {TABLE}" in line]
        return any("USING" not in line for line in lines)
    rows = [line.split() for line in plan.splitlines() if TABLE in line]
    return any("ALL" in words for words in rows)


def run(command: str, database: str) -> None:
    """Run a command, whatever it says."""
    name, *arguments = command.split()
    with suppress(CommandError, SystemExit):
        call_command(name, *arguments, database=database, stdout=StringIO(), stderr=StringIO())


def judge(found: list[tuple[str, str]], database: str) -> None:
    """Fail for a statement that goes over all events."""
    assert found
    for sql, plan in found:
        assert not reads_all(plan, connections[database].vendor), f"{sql}\n{plan}"


@pytest.mark.parametrize("name", ONE_ID)
def test_a_command_about_one_event_looks_it_up(large: str, name: str) -> None:
    """By its id, in a few statements, however large the outbox is."""
    command, status, most = ONE_ID[name]
    pk = OutboxEvent.objects.using(large).order_by("id")[ROWS // 2].pk
    OutboxEvent.objects.using(large).filter(pk=pk).update(status=status)
    with explained(large) as found:
        run(command.format(id=pk), large)
    judge(found, large)
    assert len(found) <= most, [sql for sql, _ in found]


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_command_about_few_events_finds_them_by_an_index(large: str, name: str) -> None:
    """What waits or was given up is found among many that were delivered."""
    command, status = CONDITIONS[name]
    some = OutboxEvent.objects.using(large).order_by("-id").values_list("id", flat=True)[:5]
    OutboxEvent.objects.using(large).filter(pk__in=list(some)).update(status=status)
    with explained(large) as found:
        run(command, large)
    judge(found, large)


def test_a_backend_that_was_taken_out_is_known_by_its_partitions(large: str) -> None:
    """Its delivered events can be replayed, and no statement looks for one of them to know it."""
    OutboxEvent.objects.using(large).update(publisher_backend="gone")
    OutboxPartition.objects.using(large).create(backend="gone", number=0)
    out = StringIO()
    call_command("outbox_replay", "--backend", "gone", "--dry-run", database=large, stdout=out)
    assert out.getvalue() == f"{ROWS:,} events to replay\n"
