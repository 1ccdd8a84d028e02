"""The task that `TasksBackend` enqueues: one handler for one event, through the inbox.

A worker of Django's tasks finds it by its path, `django_broadcaster.consumers.task.run_handler`.
Before Django 6.0, which has no tasks, it is a plain function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import django

from django_broadcaster.events import CloudEvent
from django_broadcaster.inbox import process
from django_broadcaster.registry import Handler, event_registry


def run_handler(event: Mapping[str, Any], handler: str) -> bool:
    """Run the handler of that name unless it has had the event; return whether it ran.

    `event` has the members of the CloudEvents JSON format. Raises LookupError where no handler has
    the name, and whatever the handler raises, with its transaction rolled back.
    """
    return process(CloudEvent.from_dict(event), _handler(handler))


def _handler(name: str) -> Handler:
    for handler in event_registry:
        if handler.name == name:
            return handler
    raise LookupError(f"no handler {name!r} is registered in this process: does it run older code?")


def _as_task(function: Callable[..., Any]) -> Any:
    """Return the task. It needs a backend and a queue that there are; `using` chooses others."""
    from django.tasks import task, task_backends

    aliases = list(task_backends)
    alias = "default" if "default" in aliases else aliases[0]
    queues = task_backends[alias].queues
    queue = "default" if not queues or "default" in queues else min(queues)
    return task(backend=alias, queue_name=queue)(function)


if django.VERSION >= (6, 0):
    run_handler = _as_task(run_handler)
