"""A project on the real 0.1.1 upgrades: its code stays, and every event arrives exactly once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from tests.support.databases import DATABASES
from tests.support.waiting import wait_until

from .projects import Project, project_on

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(300)]

PLACE = """
from django.test import Client
for path, query in {pages}:
    answer = Client().get(f"/orders/{{path}}/", query)
    assert answer.content == b"ok", answer.content
"""

STATES = """
import json
from django.utils import timezone
from django_broadcaster.models import OutboxEvent
rows = list(OutboxEvent.objects.all())
events = {event.data["number"]: event for event in rows if event.event_type == "order.created"}
OutboxEvent.objects.filter(pk=events[5].pk).update(status="processing")
events[6].increment_retry("no connection")
OutboxEvent.objects.filter(pk=events[6].pk).update(scheduled_at=timezone.now())
events[7].mark_as_failed("rejected")
events[8].increment_retry("no connection")
print(json.dumps({str(event.pk): [event.event_type, event.data["number"]] for event in rows}))
"""

READ = """
import json
from django_broadcaster.models import OutboxEvent
rows = OutboxEvent.objects.order_by("id").values_list("event_id", "status", "last_error")
print(json.dumps(list(map(list, rows))))
"""

NUMBERS = """
import json
from django_broadcaster.models import OutboxEvent
rows = OutboxEvent.objects.order_by("id")
print(json.dumps([row.data["number"] for row in rows if row.publisher_backend == "redis"]))
"""


@pytest.fixture
def project(database: str, use_tz: bool, tmp_path: Path) -> Iterator[Project]:
    """The project on a new database."""
    with project_on(database, tmp_path, use_tz=use_tz) as project:
        yield project


def place(*orders: int | str, **query: str) -> str:
    """Return a script that calls the project's views: `3` places an order, `3/complete` another."""
    return PLACE.format(pages=[(order, query) for order in orders])


def last_line(output: str) -> Any:
    """Return what a script printed as JSON."""
    return json.loads(output.strip().splitlines()[-1])


def numbers(events: list[dict[str, Any]]) -> list[int]:
    """Return the numbers of the orders that events are about."""
    return [event["data"]["number"] for event in events]


@pytest.mark.parametrize(
    ("database", "use_tz"),
    [*((alias, True) for alias in DATABASES), (DATABASES[0], False)],
    indirect=["database"],
)
def test_every_event_of_0_1_1_arrives_exactly_once(project: Project) -> None:
    """Whatever state 0.1.1 left it in; then the same code publishes with this version."""
    project.old("migrate")
    project.old_script(place(0, 1, 2))
    project.old("outbox_worker", "--max-iterations", "1", "--interval", "0")
    scripts = [
        place(*range(3, 9)) + place(9, backend="audit") + place(10, later="1"),
        place(12, 13, 14, backend="list"),
        place("3/complete", "4/delete", 11) + place(15, tenant="t"),
        STATES,
    ]
    ids = last_line(project.old_script("".join(scripts)))
    assert numbers(project.entries()) == [0, 1, 2]
    handled = project.handled()
    assert project.count() == len(ids)

    told = project.new("migrate")
    assert "Moved 18 events: 1 failed, 12 pending, 3 published, 2 scheduled." in told
    project.new("outbox_worker", "--drain")

    expected = [0, 1, 2, 3, 4, 5, 6, 3, 4, 11, 15]
    assert numbers(project.entries()) == expected
    assert numbers(project.entries("-audit")) == [9]
    arrived = [*project.entries(), *project.entries("-audit"), *project.listed()]
    assert all(ids[event["id"]] == [event["type"], event["data"]["number"]] for event in arrived)
    assert len({event["id"] for event in arrived}) == len(arrived)
    assert all(event["source"] == "order-service" for event in arrived)
    assert all(event["data"]["note"] == "é" for event in arrived)
    assert [event.get("tenant") for event in project.entries()] == [None] * 10 + ["t"]
    states = {row[0]: row[1:] for row in last_line(project.new("shell", "-c", READ))}
    assert set(states) == set(ids)
    by_number = {ids[event_id][1]: state for event_id, state in states.items()}
    assert by_number[7] == ["failed", "rejected"]
    assert by_number[8] == ["scheduled", "no connection"]
    assert by_number[10] == ["scheduled", ""]
    # Their handlers have run as they were published.
    assert project.handled() == handled

    # A backend of the project's own may refuse; the event is due again a moment later.
    wait_until(lambda: len(drained(project)) == 3, 60, "the event that was refused")
    assert sorted(numbers(project.listed())) == [12, 13, 14]

    project.new("shell", "-c", place(20, "20/complete", "20/delete") + place(21, backend="list"))
    assert project.handled() == handled
    project.new("outbox_worker", "--drain")
    assert numbers(project.entries()) == [*expected, 20, 20, 20]
    assert numbers(project.listed())[3:] == [21]
    assert sorted(project.handled()[len(handled) :]) == [
        "order.completed order-service done 20",
        "order.created order-service order-20 20",
        "order.created order-service order-21 21",
    ]
    assert project.count() == len(ids) + 4
    assert "no rows" in project.new("outbox_upgrade")


def drained(project: Project) -> list[dict[str, Any]]:
    """Return what the project's own backend has been given once a relay has nothing to do."""
    project.new("outbox_worker", "--drain")
    return project.listed()


def test_a_new_project_notices_nothing(database: str, tmp_path: Path) -> None:
    """Without the table of 0.1.1 the migration has nothing to do, and says nothing."""
    with project_on(database, tmp_path) as project:
        told = project.new("migrate")
        assert "Applying django_broadcaster.0002_events_of_0_1... OK" in told
        assert "outbox_events" not in project.new("check", "--database", "default")


def test_a_project_can_go_back_to_0_1_1(database: str, tmp_path: Path) -> None:
    """Events that were not delivered are 0.1.1's again, also new ones, and it delivers them."""
    with project_on(database, tmp_path) as project:
        project.old("migrate")
        project.old_script(place(1))
        project.new("migrate")
        project.new("shell", "-c", place(2, backend="redis"))
        project.new("outbox_worker", "--drain", "--backend", "handlers")
        assert "Moved 2 events: 2 pending." in project.new("outbox_upgrade", "--back")
        project.old("migrate")
        project.old_script(place(3))
        project.old("outbox_worker", "--max-iterations", "1", "--interval", "0")
        assert numbers(project.entries()) == [1, 2, 3]
        project.new("migrate")
        project.new("outbox_upgrade")
        project.new("outbox_worker", "--drain")
        assert numbers(project.entries()) == [1, 2, 3]


def test_migrating_backwards_returns_the_events(database: str, tmp_path: Path) -> None:
    """`migrate django_broadcaster zero` drops our tables, and loses no undelivered event."""
    with project_on(database, tmp_path) as project:
        project.old("migrate")
        project.old_script(place(1, 2))
        project.new("migrate")
        project.new("migrate", "django_broadcaster", "zero")
        project.old("outbox_worker", "--max-iterations", "1", "--interval", "0")
        assert numbers(project.entries()) == [1, 2]


WRITE = """
from pathlib import Path
from django.test import Client
numbers, stop = map(Path, sys.argv[1:])
number = 0
while not stop.exists():
    number += 1
    assert Client().get(f"/orders/{number}/").content == b"ok"
    with numbers.open("a") as file:
        file.write(".")
"""


def test_publishers_of_0_1_1_go_on_while_events_move(committing: None, tmp_path: Path) -> None:
    """They wait for nothing, and a later run takes what they wrote, each event exactly once."""
    if connections["default"].vendor != "postgresql":
        pytest.skip("needs PostgreSQL")
    written, stop = tmp_path / "written", tmp_path / "stop"

    def count() -> int:
        return written.stat().st_size if written.exists() else 0

    with project_on("default", tmp_path) as project:
        project.old("migrate")
        project.old_script(
            "from django_broadcaster.models import OutboxEvent\n"
            "OutboxEvent.objects.bulk_create([OutboxEvent(event_type='t', source='s', "
            "data={'number': -n}) for n in range(1, 5001)], batch_size=1000)"
        )
        writer = project.start_old_script(WRITE, str(written), str(stop))
        try:
            wait_until(lambda: count() > 0, 30, "0.1.1 to publish")
            before = count()
            project.new("migrate")
            assert count() > before
            wait_until(lambda: count() > before + 5, 30, "0.1.1 to go on")
        finally:
            stop.touch()
            assert writer.wait(30) == 0
        project.new("outbox_upgrade")
        assert "no rows" in project.new("outbox_upgrade")
        found = last_line(project.new("shell", "-c", NUMBERS))
        assert sorted(found) == [*range(-5000, 0), *range(1, count() + 1)]
        published = [number for number in found if number > 0]
        assert published == sorted(published)
