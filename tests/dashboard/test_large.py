"""Five million rows: each statement of the dashboard goes by an index, and reads few of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from django_broadcaster.dashboard.event_links import NEAR
from django_broadcaster.dashboard.state import BOUND
from django_broadcaster.dashboard.stuck import HEADS, NEWEST
from django_broadcaster.models import OutboxEvent
from django_broadcaster.store.sql import EVENTS
from django_broadcaster.store.stuck import WINDOW, WINDOWS
from tests.support.databases import DATABASES
from tests.support.routing import OneDatabase

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROWS = 5_000_000

FILL = f"""
    INSERT INTO {EVENTS} (event_id, source, event_type, subject, time, data_content_type,
        data_schema, extensions, data, partition_key, partition, publisher_backend,
        publisher_config, status, scheduled_at, created_at, updated_at, published_at,
        retry_count, max_retries, crash_count, last_error)
    SELECT 'e', '/shop', 'order.placed', '', now(), 'application/json', '', '{{}}', '{{}}',
        CASE WHEN state = 'retry' THEN 'k' || n % 40000 WHEN state = 'blocked' THEN 'k' || n % 7
            ELSE '' END,
        n % 64, CASE WHEN n % 10 = 9 THEN 'invoices' ELSE 'default' END, '{{}}', state,
        now() - interval '1 second', now(), now(), now(), 0, 3, 0,
        CASE state WHEN 'failed' THEN 'Rejected: no account ' || n WHEN 'retry' THEN 'busy'
            ELSE '' END
    FROM (SELECT n, CASE WHEN n <= {ROWS * 0.5} THEN 'published'
        WHEN n <= {ROWS * 0.51} THEN 'retry' WHEN n <= {ROWS * 0.65} THEN 'blocked'
        WHEN n <= {ROWS * 0.75} THEN 'failed' WHEN n <= {ROWS * 0.8} THEN 'scheduled'
        ELSE 'pending' END AS state FROM generate_series(1, {ROWS}) AS n) AS states
"""  # noqa: S608  # of constants
INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = %s AND indexdef LIKE %s"


@pytest.fixture
def millions(committing: None, settings: Settings) -> Iterator[str]:
    """Fill the outbox of PostgreSQL, where everything then goes; gives its alias."""
    alias = next((each for each in DATABASES if connections[each].vendor == "postgresql"), None)
    if alias is None:
        pytest.skip("only PostgreSQL fills a table so fast, and tells what a plan really read")
    settings.DATABASE_ROUTERS = [OneDatabase(alias)]
    with connections[alias].cursor() as cursor:
        try:
            _fill(cursor)
            yield str(alias)
        finally:
            cursor.execute(f"TRUNCATE {EVENTS} RESTART IDENTITY")
            cursor.execute(f"ALTER TABLE {EVENTS} SET LOGGED")


def _fill(cursor: Any) -> None:
    """Write the rows before the indexes, and no log: in a third of the time."""
    cursor.execute(f"ALTER TABLE {EVENTS} SET UNLOGGED")
    cursor.execute(INDEXES, [EVENTS, "% WHERE %"])
    indexes = cursor.fetchall()
    for name, _ in indexes:
        cursor.execute(f"DROP INDEX {name}")
    try:
        cursor.execute(FILL)
    finally:
        for _, definition in indexes:
            cursor.execute(definition)
    cursor.execute(f"VACUUM (ANALYZE, INDEX_CLEANUP OFF) {EVENTS}")


@pytest.fixture
def operator(millions: str) -> Iterator[User]:
    """A superuser in that database."""
    user = User.objects.create_superuser("ada", password="ada")
    yield user
    user.delete()


VIEWS = {
    "state": ([], 2 * 6 * BOUND),
    "history": ([], 10),  # which backends have events, by a seek for each
    "change": (["default"], 10),
    "stuck": (["default"], NEWEST + WINDOW * WINDOWS + HEADS),
}
"""The views, with the rows that each may go over at the most."""


def test_no_view_reads_the_outbox(
    millions: str, operator: User, two_backends: None, client: Client
) -> None:
    """With five million rows no plan goes over the table, and each view over a bounded part."""
    client.force_login(operator)
    found: dict[str, int] = {}
    for name, (arguments, _) in VIEWS.items():
        address = reverse(f"admin:django_broadcaster_outboxdashboard_{name}", args=arguments)
        found[name] = rows_read(millions, client, address)
    event = OutboxEvent.objects.filter(status="retry").order_by("id")[:1].get()
    page = reverse("admin:django_broadcaster_outboxevent_change", args=[event.pk])
    assert rows_read(millions, client, page, event.pk) <= 10 + 2 * NEAR
    blocked = OutboxEvent.objects.filter(status="blocked").order_by("id")[:1].get()
    page = reverse("admin:django_broadcaster_outboxevent_change", args=[blocked.pk])
    assert rows_read(millions, client, page, blocked.pk) <= 12 + 2 * NEAR
    assert {name: rows for name, rows in found.items() if rows > VIEWS[name][1]} == {}
    assert found["state"] > 4 * BOUND, "the rows are not there"
    assert found["stuck"] > NEWEST
    counts = json.loads(
        client.get(reverse("admin:django_broadcaster_outboxdashboard_state")).content
    )
    number, kind = counts["backends"][0]["counts"]["pending"]
    assert kind == "estimate"
    assert number == pytest.approx(ROWS * 0.2 * 0.9, rel=0.1)


def rows_read(alias: str, client: Client, address: str, event: int = 0) -> int:
    """Return how many rows of the outbox the statements of a view go over; none by a Seq Scan.

    `event` is the parameter of the statement that reads one as a relay does, without Django.
    """
    with CaptureQueriesContext(connections[alias]) as queries:
        assert client.get(address).status_code == 200
    asked = [q["sql"] for q in queries if EVENTS in q["sql"] and not q["sql"].startswith("EXPLAIN")]
    read = 0
    with connections[alias].cursor() as cursor:
        for sql in asked:
            cursor.execute(
                "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) " + sql.replace("$1", str(event)), None
            )
            ((plans,),) = cursor.fetchall()
            for scan in scans(plans[0]["Plan"]):
                assert scan["Node Type"] != "Seq Scan", sql
                removed = scan.get("Rows Removed by Filter", 0)
                read += (scan["Actual Rows"] + removed) * scan["Actual Loops"]
    return int(read)


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the nodes of a plan that read the outbox, whether or not they ran."""
    if plan.get("Relation Name") == EVENTS:
        yield plan
    for part in plan.get("Plans", []):
        yield from scans(part)
