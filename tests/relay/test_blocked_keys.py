"""What ten thousand keys in retry cost the others: nothing that could be counted.

PostgreSQL says how much a statement reads. No statistics are taken after the tables were empty, and
a snapshot is held open all the while, so that nothing is cleaned up: the worst that can be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from django.db import connections

from django_broadcaster.exceptions import TransientError
from django_broadcaster.models import OutboxEvent
from django_broadcaster.relay import watermark
from django_broadcaster.relay.loop import DeliveryLoop
from tests.support.backends import Script
from tests.support.events import count, publish

from .conftest import Join

if TYPE_CHECKING:
    from pytest_django import Settings

EVENTS = OutboxEvent._meta.db_table
KEYS = 10_000
BATCH = 500
BUSY = TransientError("busy")


class Read(NamedTuple):
    """What one statement read: rows that its scans looked at, and pages."""

    sql: str
    rows: int
    pages: int


@pytest.fixture
def database(committing: None, scripted: Script, settings: Settings) -> Iterator[str]:
    """PostgreSQL with its statistics out of date and an old snapshot; no retry comes by itself."""
    if connections["default"].vendor != "postgresql":
        pytest.skip("needs PostgreSQL")
    settings.OUTBOX_RETRY = {"initial": 3600.0, "maximum": 3600.0, "jitter": 0.0}
    with connections["default"].cursor() as cursor:
        cursor.execute(f"VACUUM ANALYZE {EVENTS}")
    with closing(connections["default"].copy()) as other, other.cursor() as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("SELECT 1")
        yield "default"


@contextmanager
def reading(database: str) -> Iterator[list[Read]]:
    """Collect what the statements of the block read; those that change rows are run only once."""
    reads: list[Read] = []
    connection = connections[database]

    def explain(execute: Callable[..., Any], sql: str, params: Any, *rest: Any) -> Any:
        if sql.startswith("EXPLAIN"):
            return execute(sql, params, *rest)
        plan: dict[str, Any] = {}
        if sql.startswith("SELECT"):
            with connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", params)
                plan = cursor.fetchone()[0][0]["Plan"]
        pages = plan.get("Shared Hit Blocks", 0) + plan.get("Shared Read Blocks", 0)
        reads.append(Read(sql, sum(scanned(plan)), pages))
        return execute(sql, params, *rest)

    with connection.execute_wrapper(explain):
        yield reads


def scanned(plan: dict[str, Any]) -> Iterator[int]:
    """Yield how many rows each scan of a table in a plan looked at, and each join."""
    for child in plan.get("Plans", []):
        yield from scanned(child)
    is_leaf = not plan.get("Plans") and plan.get("Node Type") not in ("Function Scan", "Result")
    if plan and (is_leaf or "Join" in plan["Node Type"]):
        removed = sum(rows for name, rows in plan.items() if name.startswith("Rows Removed by"))
        yield int((plan["Actual Rows"] + removed) * plan["Actual Loops"])


def backlog(events: int, *, keys: int, prefix: str = "k") -> None:
    """Write events that go round the keys; the database does it, because that is quick."""
    values = {
        field.column: field.column
        for field in OutboxEvent._meta.concrete_fields
        if field.column != "id"
    } | {
        "event_id": f"'{prefix}-' || n",
        "subject": f"'{prefix}' || n %% {keys} || '-' || n / {keys}",
        "partition_key": f"'{prefix}' || n %% {keys}",
        "partition": f"n %% {keys} %% 64",
    }
    columns, chosen = ", ".join(values), ", ".join(values.values())
    (pattern,) = publish("pattern1", using="default")
    sql = (  # of constants
        f"WITH pattern AS (DELETE FROM {EVENTS} WHERE id = %s RETURNING *) "  # noqa: S608
        f"INSERT INTO {EVENTS} ({columns}) "
        f"SELECT {chosen} FROM pattern, generate_series(0, %s) AS n"
    )
    with connections["default"].cursor() as cursor:
        cursor.execute(sql, [pattern.pk, events - 1])


@pytest.fixture
def catch_up(monkeypatch: pytest.MonkeyPatch) -> Callable[[DeliveryLoop], None]:
    """Return a function that lets a relay skip all that is delivered, and then look no more."""

    def to_the_end(loop: DeliveryLoop) -> None:
        monkeypatch.setattr(watermark, "WORTH_CHECKING", 0)
        publish("z1", using=loop.using)
        while loop.turn(2000).found_work:
            pass
        loop.turn(2000)
        assert loop.owned.watermark.start > OutboxEvent.objects.order_by("id").last().pk
        monkeypatch.setattr(watermark, "WORTH_CHECKING", 10**9)

    return to_the_end


def batch_costs(loop: DeliveryLoop) -> list[Read]:
    """Deliver one full batch, and return what its statements read."""
    backlog(BATCH, keys=100)
    with reading(loop.using) as reads:
        assert loop.deliver(BATCH).published == BATCH
    return reads


def block_a_key_each(keys: int, scripted: Script, loop: DeliveryLoop) -> None:
    """Let so many keys have an event in retry, and another one behind it."""
    scripted.fail("*", BUSY)
    backlog(2 * keys, keys=keys, prefix="stuck")
    while loop.turn(2000).found_work:
        pass
    scripted.heal()
    assert count("retry", loop.using) == count("blocked", loop.using) == keys


def fetches(reads: list[Read]) -> list[Read]:
    """Return the statements that fetched a batch."""
    return [read for read in reads if "ORDER BY publisher_backend, id LIMIT" in read.sql]


def test_ten_thousand_blocked_keys_cost_the_others_nothing(
    database: str, scripted: Script, join: Join, catch_up: Callable[[DeliveryLoop], None]
) -> None:
    """A batch is the same three statements, and its fetch reads the same rows and pages. An event
    of old that is tried again does not change that, and its key is let go for next to nothing."""
    loop = join()
    backlog(KEYS, keys=100)
    catch_up(loop)
    plain = batch_costs(loop)
    assert len(plain) == 3
    (fetch,) = fetches(plain)

    block_a_key_each(KEYS, scripted, loop)
    catch_up(loop)
    beside = batch_costs(loop)
    assert [read.sql for read in beside] == [read.sql for read in plain]
    (same,) = fetches(beside)
    assert same.rows == fetch.rows == BATCH
    assert same.pages <= fetch.pages + 10

    catch_up(loop)
    OutboxEvent.objects.filter(subject="stuck17-0").hasten()
    loop.rounds.are_wanted.set()
    loop.rounds._next_reread = float("inf")
    loop.do_rounds()
    backlog(BATCH, keys=100)
    with reading(database) as reads:
        while loop.deliver(BATCH).found_work:
            pass
    assert "stuck17-1" in scripted.arrived[-2:]
    assert all(read.pages <= fetch.pages + 10 for read in fetches(reads))
    assert sum(read.rows for read in reads) < BATCH + 50


def test_what_an_operator_let_go_is_found_in_one_pass(
    database: str, scripted: Script, join: Join
) -> None:
    """To find the keys whose first event was cancelled, each row that waits is read a few times at
    most, whatever PostgreSQL believes how many there are."""
    loop = join()
    block_a_key_each(KEYS, scripted, loop)
    OutboxEvent.objects.filter(subject__in=["stuck17-0", "stuck18-0"]).cancel()
    with reading(database) as reads:
        released = loop.owned.rows.release(loop.lease.partitions, 1000)
    assert [key for _, key in released] == ["stuck17", "stuck18"]
    assert reads[0].rows <= 3 * 2 * KEYS
