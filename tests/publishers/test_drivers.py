"""Publishing by the drivers, and the ways to use them, that Django has for PostgreSQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_broadcaster.events import CloudEvent
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


@pytest.fixture
def bound_by_the_server(postgres: str) -> Iterator[BaseDatabaseWrapper]:
    """A connection that sends parameters apart from their statement, which Django can do too."""
    connection = connections[postgres].copy()
    options = {**connection.settings_dict["OPTIONS"], "server_side_binding": True}
    connection.settings_dict = {**connection.settings_dict, "OPTIONS": options}
    with closing(connection):
        yield connection


def test_events_are_published_with_parameters_bound_by_the_server(
    postgres: str, bound_by_the_server: BaseDatabaseWrapper
) -> None:
    """Rows are the same whoever puts their values into the statement."""
    call = PublishCall(postgres, publisher._get_default_backend)
    delivery = call.delivery(None, 3, None)

    def row(number: int, data: Any) -> NewRow:
        event = CloudEvent(event_type="t", source="/s", id=str(number), data=data)
        given = {"backend": None, "partition_key": "a,{}", "unique": number > 1}
        return call.rows(event, delivery, **given)[0]

    rows = [row(number, data) for number, data in enumerate(DATA)]
    assert insert_rows(connections[postgres], rows) == len(rows)
    expected = [{**columns(each), "id": None} for each in outbox(postgres)]
    for write in (
        lambda: insert_rows(bound_by_the_server, rows),
        lambda: [insert_row(bound_by_the_server, each) for each in rows],
    ):
        outbox(postgres).delete()
        write()
        assert [{**columns(each), "id": None} for each in outbox(postgres)] == expected
