"""A task as an event: its type is the path of the task, its data are the arguments.

Queue, priority and the rest of a `Task` are in the event's `publisher_config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from django.tasks import Task
from django.utils.module_loading import import_string

SOURCE: Final = "/tasks"
"""The source of the events of tasks. Together with the id and the backend it makes a row unique."""

CONFIG_KEYS: Final = frozenset({"tasks_backend", "queue_name", "priority", "run_after"})


def config_of(task: Task[..., Any]) -> dict[str, Any]:
    """Return the `publisher_config` of the event of a task."""
    config = {
        "tasks_backend": task.backend,
        "queue_name": task.queue_name,
        "priority": task.priority,
    }
    if task.run_after is not None:
        config["run_after"] = task.run_after.isoformat()
    return config


def task_of(path: str, config: Mapping[str, Any]) -> Task[..., Any]:
    """Return the task at a path, as it was enqueued.

    Raises:
        ImportError: There is no task at this path.
        InvalidTask: TASKS no longer allows the task.
        InvalidTaskBackend: TASKS no longer has the backend.
    """
    task = import_string(path)
    if not isinstance(task, Task):
        raise ImportError(f"{path!r} is not a task, but {type(task).__name__}")
    moment = config.get("run_after")
    return replace(
        task,
        backend=config.get("tasks_backend", task.backend),
        queue_name=config.get("queue_name", task.queue_name),
        priority=config.get("priority", task.priority),
        run_after=None if moment is None else datetime.fromisoformat(moment),
    )
