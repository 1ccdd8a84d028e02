"""How a database carries a relay's statements out, whatever its statistics say of the outbox."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone

from django_broadcaster.models import OutboxEvent, OutboxPartition
from django_broadcaster.store import RelayRows
from tests.support.archives import grow_old
from tests.support.events import publish_many

By = Callable[[RelayRows, list[int]], object]
Ask = Callable[[RelayRows, int], object]

PARTITIONS = range(64)
LIMIT = 100
TABLE = OutboxEvent._meta.db_table
PARTITION_TABLE = OutboxPartition._meta.db_table

BY_ID: dict[str, By] = {
    "fetch": lambda rows, ids: rows.fetch_by_id(PARTITIONS, ids),
    "published": lambda rows, ids: rows.mark_published(ids, keep=True),
    "deleted": lambda rows, ids: rows.mark_published(ids, keep=False),
    "retry": lambda rows, ids: rows.retry([(row_id, 1.0, "busy", 1) for row_id in ids]),
    "dead_letter": lambda rows, ids: rows.dead_letter([(row_id, "no") for row_id in ids]),
    "expire": lambda rows, ids: rows.expire(ids),
    "block": lambda rows, ids: rows.block(ids),
    "pending": lambda rows, ids: rows.pending_of(ids),
}
"""The statements that are given ids."""

FIRST: dict[str, Ask] = {
    "fetch": lambda rows, _: rows.fetch(PARTITIONS, 0, LIMIT),
    "fetch from the middle": lambda rows, middle: rows.fetch(PARTITIONS, middle, LIMIT),
    "timed fetch": lambda rows, _: rows.fetch(PARTITIONS, 0, LIMIT, timed=True),
    "heads": lambda rows, middle: rows.heads(PARTITIONS, 0, LIMIT, ["b"], [middle]),
    "last id": lambda rows, _: rows.last_id(),
    "promote": lambda rows, _: rows.promote(PARTITIONS, LIMIT),
    "release": lambda rows, _: rows.release(PARTITIONS, LIMIT, ["b"]),
    "waiting keys": lambda rows, _: rows.blocked_keys(PARTITIONS, ["b"]),
    "pulse": lambda rows, _: rows.pulse(PARTITIONS, 0),
    "due": lambda rows, _: rows.has_due(),
}
"""The statements that want the first of many rows."""


@pytest.fixture
def backlog(committing: None) -> Iterator[list[int]]:
    """A backlog that came after the statistics were taken, when all was delivered; its ids."""
    if connections["default"].vendor != "postgresql":
        pytest.skip("needs PostgreSQL")
    publish_many(2000, "default", keys=10)
    grow_old("default")
    with connections["default"].cursor() as cursor:
        cursor.execute(f"VACUUM ANALYZE {TABLE}")
    publish_many(500, "default", keys=10)
    pending = OutboxEvent.objects.filter(status="pending").order_by("id")
    return list(pending.values_list("id", flat=True))


def test_rows_that_are_named_are_looked_up(backlog: list[int]) -> None:
    """No statement reads the index of all that is pending for a batch whose ids it is given."""
    plans: list[str] = []

    def explain(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        execute(f"EXPLAIN {sql}", params, many, context)
        plans.append("\n".join(line for (line,) in context["cursor"].fetchall()))
        return execute(sql, params, many, context)

    rows = RelayRows("default", "default", 0)  # without a lease: nothing is changed
    rows.clock.ask()
    with connections["default"].execute_wrapper(explain):
        for act in BY_ID.values():
            act(rows, backlog[:10])
    assert len(plans) == len(BY_ID)
    for name, plan in zip(BY_ID, plans, strict=True):
        assert "outboxevent_pkey" in plan, f"{name}: {plan}"
        assert "broadcaster_pending" not in plan, f"{name}: {plan}"


@pytest.fixture
def large(database: str) -> Iterator[str]:
    """A database that has never analysed or vacuumed its outbox, which has much of everything."""
    publish_many(2000, database, keys=10)
    rows = OutboxEvent.objects.using(database)
    numbers = list(rows.order_by("id").values_list("id", flat=True))
    past = timezone.now() - timedelta(hours=1)
    rows.filter(pk__in=numbers[:600]).update(status="retry", scheduled_at=past)
    rows.filter(pk__in=numbers[600:1200]).update(status="blocked", partition_key="b")
    with unknown_statistics(database), connections[database].cursor() as cursor:
        bloat(database)
        for _ in range(4):
            cursor.execute(copies(database))
        yield database


@contextmanager
def unknown_statistics(database: str) -> Iterator[None]:
    """Let nobody analyse the outbox, and let what is known of it be forgotten."""
    if connections[database].vendor != "postgresql":
        yield  # SQLite takes none by itself; to MariaDB each statement says the index
        return
    with connections[database].cursor() as cursor:
        for table in (TABLE, PARTITION_TABLE):
            cursor.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
            cursor.execute("DELETE FROM pg_statistic WHERE starelid = %s::regclass", [table])
        yield
        for table in (TABLE, PARTITION_TABLE):
            cursor.execute(f"ALTER TABLE {table} RESET (autovacuum_enabled)")
            cursor.execute(f"VACUUM ANALYZE {table}")


def bloat(database: str) -> None:
    """Leave many rows that are deleted and not yet vacuumed, of events as of partitions."""
    if connections[database].vendor != "postgresql":
        return  # nothing has to be vacuumed there
    OutboxPartition.objects.using(database).bulk_create(
        OutboxPartition(backend="default", number=number) for number in range(10_000)
    )
    events = OutboxEvent.objects.using(database)
    last = max(events.values_list("id", flat=True))
    with connections[database].cursor() as cursor:
        for _ in range(3):
            cursor.execute(copies(database))
        cursor.execute(f"DELETE FROM {TABLE} WHERE id > %s", [last])  # noqa: S608
        cursor.execute(f"DELETE FROM {PARTITION_TABLE} WHERE number >= 64")  # noqa: S608


def copies(database: str) -> str:
    """Return the statement that writes every event once more."""
    fields = [field for field in OutboxEvent._meta.concrete_fields if not field.primary_key]
    quote = connections[database].ops.quote_name
    columns = ", ".join(quote(field.column) for field in fields)
    return f"INSERT INTO {TABLE} ({columns}) SELECT {columns} FROM {TABLE}"  # noqa: S608


def beliefs(database: str) -> Iterator[str]:
    """Let PostgreSQL believe in turn that a page has so many rows; the others believe nothing."""
    if connections[database].vendor != "postgresql":
        yield "nothing"
        return
    for density in (-1, 1, 10, 100, 1_000, 10_000):
        with connections[database].cursor() as cursor:
            sql = "UPDATE pg_class SET reltuples = %s, relpages = %s WHERE oid = %s::regclass"
            cursor.execute(sql, [density, max(0, min(1, density)), TABLE])
        yield f"{density} rows a page"


def test_the_first_rows_are_read_and_no_others(large: str) -> None:
    """What statistics say, or do not say, lets no statement read the whole of a backlog."""
    middle = OutboxEvent.objects.using(large).order_by("-id")[1000].pk
    for belief in beliefs(large):
        for name, ask in FIRST.items():
            rows = RelayRows(large, "default", 0)  # without a lease: nothing is changed
            rows.clock.ask()
            with reading(large) as read:
                ask(rows, middle)
            assert read, f"{name}: nothing was measured"
            assert max(read) <= 20 * LIMIT, f"{name}, {belief}: {read} of 32,000 rows were read"


@contextmanager
def reading(database: str) -> Iterator[list[float]]:
    """Give how many rows each SELECT of the block has read, or what comes near it."""
    measure = {"postgresql": _plans, "mysql": _handlers, "sqlite": _steps}
    with measure[connections[database].vendor](database) as read:
        yield read


@contextmanager
def _plans(database: str) -> Iterator[list[float]]:
    """By what PostgreSQL counts as it explains."""
    read: list[float] = []

    def most(node: dict[str, Any]) -> float:
        removed = sum(node.get(f"Rows Removed by {why}", 0) for why in ("Filter", "Index Recheck"))
        own = (node["Actual Rows"] + removed) * node["Actual Loops"]
        return max([own, *map(most, node.get("Plans", ()))])

    def explain(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("SELECT") and TABLE in sql:
            with connections[database].connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", params)
                read.append(most(cursor.fetchone()[0][0]["Plan"]))
        return execute(sql, params, many, context)

    with connections[database].execute_wrapper(explain):
        yield read


@contextmanager
def _handlers(database: str) -> Iterator[list[float]]:
    """By MariaDB's counters of what a session has read."""
    read: list[float] = []
    with connections[database].cursor() as cursor:
        cursor.execute("FLUSH STATUS")
        yield read
        cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
        read.append(sum(int(value) for _, value in cursor.fetchall()))


@contextmanager
def _steps(database: str) -> Iterator[list[float]]:
    """By the steps of SQLite's virtual machine, of which each row takes a hundred or more."""
    read: list[float] = []
    connections[database].ensure_connection()
    driver: Any = connections[database].connection
    driver.set_progress_handler(lambda: read.append(1), 100)
    try:
        yield read
    finally:
        driver.set_progress_handler(None, 0)
    read[:] = [len(read)]
