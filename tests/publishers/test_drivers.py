"""Publishing by the drivers, and the ways to use them, that Django has for PostgreSQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test.utils import CaptureQueriesContext

from django_broadcaster.events import CloudEvent
from django_broadcaster.notify import send
from django_broadcaster.publishers import publisher
from django_broadcaster.publishing import PublishCall
from django_broadcaster.store import NewRow, insert_row, insert_rows
from tests.support.workers import place_of

from .test_publish import columns, outbox

MANAGE = Path(__file__).resolve().parent.parent / "manage.py"
DATA: list[Any] = [{"share": '100%s é "\\'}, b"\x00\xff%s'\\", None, "{a,NULL}"]
PUBLISH = """
from django.db import connections
from django_broadcaster.publishers import publisher
from tests.publishers.test_drivers import DATA

print(connections[{database!r}].Database.__name__)
for number, data in enumerate(DATA):
    publisher.publish_event("one", "/s", data, event_id=str(number), using={database!r})
many = [
    {{"event_type": "many", "source": "/s", "data": data, "event_id": given and str(number)}}
    for given in (True, None)
    for number, data in enumerate([*DATA, "last"])
]
print(publisher.publish_events(many, using={database!r}))
"""


@pytest.fixture
def postgres(committing: None) -> str:
    """Run a test on PostgreSQL only; the value is its alias."""
    for alias in connections:
        if connections[alias].vendor == "postgresql":
            return alias
    pytest.skip("PostgreSQL is not among the databases of this run")


def test_events_are_published_by_psycopg2(postgres: str) -> None:
    """Without psycopg Django takes psycopg2, and both publish calls write the same."""
    places = {alias: place_of(alias) for alias in connections}
    done = subprocess.run(
        [sys.executable, str(MANAGE), "shell", "-c", PUBLISH.format(database=postgres)],
        env={
            **os.environ,
            "BROADCASTER_TEST_PROCESS": json.dumps({"databases": places}),
            "BROADCASTER_TEST_WITHOUT": "psycopg",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["psycopg2", "6"]
    rows = [row.cloud_event for row in outbox(postgres)]
    assert [row.type for row in rows] == ["one"] * 4 + ["many"] * 6
    assert [row.data for row in rows] == [*DATA, "last", *DATA, "last"]


@contextmanager
def connected(database: str, **options: Any) -> Iterator[BaseDatabaseWrapper]:
    """A connection of its own, with these OPTIONS besides those of the settings."""
    connection = connections[database].copy()
    options = {**connection.settings_dict["OPTIONS"], **options}
    connection.settings_dict = {**connection.settings_dict, "OPTIONS": options}
    with closing(connection):
        yield connection


def rows_of(database: str) -> list[NewRow]:
    """Rows with different data, of which two have an identity."""
    call = PublishCall(database, publisher._get_default_backend)
    delivery = call.delivery(None, 3, None)

    def row(number: int, data: Any) -> NewRow:
        event = CloudEvent(event_type="t", source="/s", id=str(number), data=data)
        given = {"backend": None, "partition_key": "a,{}", "unique": number > 1}
        return call.rows(event, delivery, **given)[0]

    return [row(number, data) for number, data in enumerate(DATA)]


def written(database: str, write: Callable[[], object]) -> list[dict[str, Any]]:
    """Return the columns of what a function writes into the empty outbox, without the ids."""
    outbox(database).delete()
    write()
    return [{**columns(each), "id": None} for each in outbox(database)]


def test_events_are_published_with_parameters_bound_by_the_server(postgres: str) -> None:
    """Rows are the same whoever puts their values into the statement."""
    rows = rows_of(postgres)
    expected = written(postgres, lambda: insert_rows(connections[postgres], rows))
    assert len(expected) == len(rows)
    with connected(postgres, server_side_binding=True) as other:
        assert written(postgres, lambda: insert_rows(other, rows)) == expected
        assert written(postgres, lambda: [insert_row(other, row) for row in rows]) == expected


@pytest.mark.parametrize("allowed", [True, False], ids=["prepare_threshold", "default"])
def test_plan_of_the_insert_is_kept_only_if_the_project_allows_it(
    postgres: str, allowed: bool
) -> None:
    """Rows are the same, with an identity or without; a pooler's session would lack the plan."""
    rows = rows_of(postgres)
    expected = written(postgres, lambda: insert_rows(connections[postgres], rows))
    with connected(postgres, **({"prepare_threshold": 0} if allowed else {})) as other:
        for _ in range(2):  # planned, and by that plan
            assert written(postgres, lambda: [insert_row(other, row) for row in rows]) == expected
        with other.cursor() as cursor:
            cursor.execute("SELECT statement FROM pg_prepared_statements")
            kept = [statement for (statement,) in cursor.fetchall()]
    assert any(sql.startswith("INSERT INTO django_broadcaster") for sql in kept) is allowed


def test_row_that_was_published_before_is_found_with_a_plan_that_is_kept(postgres: str) -> None:
    """A second row with the identity is not written, and the transaction stays usable."""
    row = rows_of(postgres)[-1]
    with connected(postgres, prepare_threshold=0) as other:
        assert [insert_row(other, row) is None for _ in range(3)] == [False, True, True]
    assert outbox(postgres).count() == 1


def test_logged_statement_has_its_values_although_its_plan_could_be_kept(postgres: str) -> None:
    """A developer who looks at the queries of a request sees what was written."""
    with connected(postgres, prepare_threshold=0) as other, CaptureQueriesContext(other) as run:
        insert_row(other, rows_of(postgres)[0])
    (sql,) = [each["sql"] for each in run if each["sql"].startswith("INSERT")]
    assert "'a,{}'" in sql


@pytest.mark.parametrize("options", [{}, {"server_side_binding": True}], ids=["client", "server"])
def test_notify_arrives_for_any_alias(postgres: str, options: dict[str, Any]) -> None:
    """The alias of a backend is text of the project, whoever binds it."""
    aliases = ["default", "it's", 'a"b', "back\\slash", "100%s", "é"]
    with connected(postgres) as listener, connected(postgres, **options) as other:
        with listener.cursor() as cursor:
            cursor.execute("LISTEN django_broadcaster")
        for alias in aliases:
            send(other, "django_broadcaster", alias)
        notes = listener.connection.notifies(timeout=10, stop_after=len(aliases))
        assert [note.payload for note in notes] == aliases
