"""Runs of tasks, as relays record them, on any version of Django."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from django.utils import timezone

from django_broadcaster.models import OutboxEvent, OutboxTaskRun
from django_broadcaster.store import identity_of

from .events import insert

TRACEBACK = """Traceback (most recent call last):
  File "/srv/shop/tasks.py", line 14, in build_report
    raise LookupError(f"no orders in {month}")
LookupError: no orders in May
"""


def record(task_id: str, status: str, *, task: str = "shop.tasks.build_report") -> OutboxTaskRun:
    """Write the event of a task that a relay has run, and its run; return that."""
    now = timezone.now()
    succeeded = status == "published"
    event = OutboxEvent(
        event_type=task, source="/tasks", event_id=task_id, publisher_backend="tasks",
        data={"args": ["May"], "kwargs": {}}, identity=identity_of("/tasks", task_id, "tasks"),
        status=status, created_at=now - timedelta(minutes=3),
        last_error="" if succeeded else f"task {task}: LookupError: no orders in May",
    )  # fmt: skip
    event.partition = 0
    insert(event)
    errors: list[Any] = [] if succeeded else [("builtins.LookupError", TRACEBACK)]
    value = {"pages": 12} if succeeded else None
    return OutboxTaskRun.objects.create(
        task_id=task_id, task=task, backend="tasks", identity=event.identity, is_running=False,
        started_at=now - timedelta(minutes=2), last_attempted_at=now - timedelta(minutes=1),
        finished_at=now if succeeded else None, worker_ids=["relay-1:4711", "relay-2:815"],
        outcome=json.dumps({"return_value": value, "errors": errors}),
    )  # fmt: skip
