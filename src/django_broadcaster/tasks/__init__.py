"""Django's tasks in the outbox (Django 6.0 or newer): a backend for TASKS, and what runs its tasks.

    TASKS = {"default": {"BACKEND": "django_broadcaster.tasks.OutboxTaskBackend"}}

- `backend` is given tasks by Django, and knows the backends of the outbox that they go to.
- `entry` reads an entry of TASKS, and `checks` are its system checks.
- `task_events` says how a task is an event, and `results` reads its result.
- `runner` is the backend of the outbox that runs tasks in the relay, and `runs` the record of that.

The names are loaded at first use: `@task` needs the backend before `django.setup()` is done, and
older versions of Django have no tasks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import django

from django_broadcaster.exceptions import BackendConfigurationError

if TYPE_CHECKING:
    from .backend import OutboxTaskBackend
    from .runner import TaskRunner

__all__ = ["OutboxTaskBackend", "TaskRunner"]

_MODULES = {"OutboxTaskBackend": ".backend", "TaskRunner": ".runner"}


def __getattr__(name: str) -> Any:
    try:
        module = _MODULES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    if django.VERSION < (6, 0):
        raise BackendConfigurationError(
            f"{__name__}.{name} needs django.tasks, which Django has from 6.0 on; this is Django "
            f"{django.get_version()}. Publish an event with a handler instead"
        )
    return getattr(import_module(module, __name__), name)
