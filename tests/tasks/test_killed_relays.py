"""Tasks in real relays that are killed: each runs, and with `atomic` its changes happen once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import django
import pytest
from django.db import transaction

from django_broadcaster.models import OutboxEvent
from tests.app.models import Order
from tests.support.routing import OneDatabase
from tests.support.waiting import wait_until
from tests.support.workers import Workers, starting_workers

if TYPE_CHECKING:
    from pytest_django import Settings

if django.VERSION < (6, 0):
    pytest.skip("django.tasks is there from Django 6.0 on", allow_module_level=True)

from tests.support import outbox_tasks as tasks

BACKEND = "django_broadcaster.tasks.OutboxTaskBackend"
NUMBER = 300
KILLS = 3


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    """Starts `outbox_worker` processes, and ends them after the test."""
    with starting_workers(tmp_path) as started:
        yield started


@pytest.mark.chaos
@pytest.mark.newest
@pytest.mark.timeout(300)
@pytest.mark.parametrize("is_atomic", [True, False], ids=["atomic", "not atomic"])
def test_no_task_is_lost_when_relays_are_killed(
    database: str, settings: Settings, workers: Workers, is_atomic: bool
) -> None:
    """Every task that was committed runs; with `atomic`, its changes happen once."""
    settings.DATABASE_ROUTERS = [OneDatabase(database)]
    entry = {
        "BACKEND": BACKEND,
        "OPTIONS": {"atomic": is_atomic, "concurrency": 2, "max_retries": 20},
    }
    settings.TASKS = {"default": entry}
    results = []
    for number in range(NUMBER):
        with transaction.atomic(using=database):
            result = tasks.place_order.using(priority=number % 3 - 1).enqueue(str(number))
            transaction.set_rollback(number % 10 == 0, using=database)
        if number % 10:
            results.append(result)
    rows, orders = OutboxEvent.objects.using(database), Order.objects.using(database)
    arguments = ("--database", database)
    # A task that happens to run at each kill must not be taken for their cause.
    told = {"TASKS": settings.TASKS, "OUTBOX_LEASE_SECONDS": 2, "OUTBOX_MAX_CRASHES": KILLS + 1}
    for kill in range(1, KILLS + 1):
        worker = workers.start(database, *arguments, **told)
        most = kill * len(results) // (KILLS + 1)
        wait_until(lambda most=most: orders.count() >= most, 60, "some tasks")  # type: ignore[misc]
        worker.kill()
    workers.start(database, *arguments, **told)
    wait_until(lambda: not rows.undelivered().exists(), 60, "all tasks")
    assert [*rows.dead_letters().values_list("last_error", flat=True)] == []
    found = Counter(orders.values_list("number", flat=True))
    assert found.keys() == {str(number) for number in range(NUMBER) if number % 10}
    if is_atomic:
        assert {*found.values()} == {1}
    for result in results:
        result.refresh()
    assert [each.return_value for each in results] == [{"number": each.args[0]} for each in results]
