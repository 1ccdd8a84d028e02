"""The task that `TasksBackend` enqueues: it runs one handler for one event, through the inbox.

Workers of Django's tasks import it by its path, `django_broadcaster.consumers.task.run_handler`.
Before Django 6.0, which has no tasks, it is a function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import django

from django_broadcaster.events import CloudEvent
from django_broadcaster.inbox import process
from django_broadcaster.registry import Handler, event_registry


def run_handler(event: Mapping[str, Any], handler: str) -> bool:
    """Run a handler unless it has processed the event; return True if it ran.

    If the handler raises an error, its transaction is rolled back and the error is raised.

    Args:
        event: The members of the event in the CloudEvents JSON format.
        handler: The name of the handler.

    Raises:
        LookupError: No handler has this name.
    """
    return process(CloudEvent.from_dict(event), _handler(handler))


def _handler(name: str) -> Handler:
    for handler in event_registry:
        if handler.name == name:
            return handler
    raise LookupError(
        f"handler {name!r} is not registered in this process; deploy the version that has it"
    )


def _as_task(function: Callable[..., Any]) -> Any:
    """Return the task, with an existing backend and queue; `using` selects others."""
    from django.tasks import task, task_backends

    aliases = list(task_backends)
    alias = "default" if "default" in aliases else aliases[0]
    queues = task_backends[alias].queues
    queue = "default" if not queues or "default" in queues else min(queues)
    return task(backend=alias, queue_name=queue)(function)


if django.VERSION >= (6, 0):
    run_handler = _as_task(run_handler)
