"""The backend for Django's setting TASKS: it writes each task to the outbox.

`@task` makes the backend while modules are imported, so nothing here imports models beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, ParamSpec, TypeVar

from django.core.checks import CheckMessage
from django.tasks import DEFAULT_TASK_BACKEND_ALIAS, DEFAULT_TASK_QUEUE_NAME, Task, TaskResult
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.exceptions import TaskResultDoesNotExist
from django.tasks.signals import task_enqueued
from django.utils.json import normalize_json

from django_broadcaster.check_messages import error

from .entry import RUNNER_OPTIONS, Entry
from .task_events import SOURCE, config_of

P = ParamSpec("P")
R = TypeVar("R")

LONGEST_ALIAS: Final = 64
"""The characters of an alias that a row of the outbox can hold."""

RUNNER: Final = "django_broadcaster.tasks.TaskRunner"


class OutboxTaskBackend(BaseTaskBackend):
    """Writes a task to the outbox, in the caller's transaction; a relay runs it after the commit.

    Each queue is a backend of the outbox. With `priorities` it is three, which do not wait for each
    other: one for tasks with a priority above 0, one for those with 0, and one for those below.

    The OPTIONS are `priorities`, `max_retries`, and those of `TaskRunner`.
    """

    supports_defer = True
    supports_async_task = True
    supports_get_result = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        self.entry = Entry(alias, params)
        super().__init__(alias, {**params, "QUEUES": self.entry.queues})
        self.supports_priority = self.entry.options["priorities"]
        for outbox_alias in self.destinations():
            if len(outbox_alias) > LONGEST_ALIAS:
                message = (
                    f"{self.entry.where}['QUEUES']: the backend of the outbox for a queue would be "
                    f"{outbox_alias!r}; its name must have {LONGEST_ALIAS} characters at most."
                )
                self.entry.errors.append(error("E058", message, "Rename the queue."))
                break

    def check(self, **kwargs: Any) -> list[CheckMessage]:
        """Return the errors of the entry of TASKS, or what is wrong with the backends it needs."""
        from .checks import check_backend

        return self.entry.errors or [*check_backend(self)]

    def destinations(self) -> tuple[str, ...]:
        """Return the aliases of all backends of the outbox that tasks go to."""
        queues = sorted(self.queues) or [DEFAULT_TASK_QUEUE_NAME]
        priorities = (1, 0, -1) if self.supports_priority else (0,)
        return tuple(self.destination(queue, each) for queue in queues for each in priorities)

    def destination(self, queue_name: str, priority: int) -> str:
        """Return the alias of the backend of the outbox for a queue and a priority."""
        return "-".join(["tasks", *self._parts(queue_name, priority)])

    def _parts(self, queue_name: str, priority: int) -> Iterator[str]:
        if self.alias != DEFAULT_TASK_BACKEND_ALIAS:
            yield self.alias
        # Without QUEUES every name is allowed, and a backend for each can't be known beforehand.
        if queue_name in self.queues and queue_name != DEFAULT_TASK_QUEUE_NAME:
            yield queue_name
        if priority:
            yield "high" if priority > 0 else "low"

    @classmethod
    def outbox_publishers(cls, alias: str, params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the entries that OUTBOX_PUBLISHERS gets for an entry of TASKS, unless it has them.

        A wrong option has its default in them.
        """
        backend = cls(alias, dict(params))
        options = {name: backend.entry.options[name] for name in RUNNER_OPTIONS}
        return {each: {"BACKEND": RUNNER, "OPTIONS": options} for each in backend.destinations()}

    def enqueue(self, task: Task[P, R], args: Any, kwargs: Any) -> TaskResult[P, R]:
        """Write the task to the outbox, and return its result, which is READY.

        Raises:
            ImproperlyConfigured: The entry of TASKS is wrong, as the system checks say.
            InvalidTask: The task does not suit this backend.
            TypeError: An argument can't be written as JSON.
            PublishError: The task can't be written, as with any other event.
        """
        from django_broadcaster.publishing import publish_directly

        from .results import result_of_row

        self.entry.require_valid()
        self.validate_task(task)
        row = publish_directly(
            task.module_path,
            SOURCE,
            {"args": normalize_json(list(args)), "kwargs": normalize_json(dict(kwargs))},
            backend=self.destination(task.queue_name, task.priority),
            scheduled_at=task.run_after,
            publisher_config=config_of(task),
            max_retries=self.entry.options["max_retries"],
        )
        result: TaskResult[Any, Any] = result_of_row(row, task=task)
        task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> TaskResult[..., Any]:
        """Return the result of a task; raises TaskResultDoesNotExist.

        A result exists as long as the row of the task in the outbox.
        """
        from .results import find_result

        result = find_result(str(result_id), self.destinations())
        if result is None:
            raise TaskResultDoesNotExist(result_id)
        return result
