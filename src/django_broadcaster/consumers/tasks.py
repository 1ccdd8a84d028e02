"""A backend that runs the handlers of `event_registry` as Django's tasks (Django 6.0 or newer).

It enqueues one task for each handler of an event. The task runs the handler through the inbox:
once per event, even if the task runs twice or the event is delivered again. An event is delivered
once its tasks are enqueued; from then on, the project's TASKS are responsible.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import django
from django.db import InterfaceError, OperationalError

from django_broadcaster.backends.base import Message, MessageBackend, Shown
from django_broadcaster.backends.unhandled import tell_unhandled
from django_broadcaster.events.json_format import parse_json
from django_broadcaster.exceptions import (
    AfterCommitFailed,
    BackendConfigurationError,
    BackendUnavailable,
    DeliveryError,
    Rejected,
    TransientError,
)

from .received import handlers_of, is_malformed, redeliver

PRIORITIES: Final = (-100, 100)

_UNAVAILABLE: Final = (InterfaceError, OperationalError, OSError)
"""Errors of a queue whose database or server is unavailable."""


class TasksBackend(MessageBackend):
    """Enqueues one task for each handler of an event.

    Args:
        tasks_backend: An alias of the setting TASKS.
        queue_name: One of the QUEUES of that backend.
        priority: -100 to 100, if the backend supports it.

    The `publisher_config` of an event may have `queue_name` and `priority`.
    """

    system: ClassVar[str] = "django_tasks"
    config_keys: ClassVar[frozenset[str]] = frozenset({"priority", "queue_name"})

    runs_handlers = True

    def __init__(
        self,
        *,
        tasks_backend: str = "default",
        queue_name: str = "default",
        priority: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if django.VERSION < (6, 0):
            raise BackendConfigurationError(
                f"OUTBOX_PUBLISHERS[{self.alias!r}]['BACKEND']: TasksBackend needs django.tasks, "
                f"which Django has from 6.0 on; this is Django {django.get_version()}. "
                "Use CeleryBackend or LocalBackend instead"
            )
        self.tasks_backend = self.read.text("tasks_backend", tasks_backend)
        self.queue_name = self.read.text("queue_name", queue_name)
        self.priority = self.read.integer("priority", priority, *PRIORITIES)

    def open(self) -> None:
        """Raise BackendConfigurationError if TASKS lacks the backend or the queue."""
        from django.core.exceptions import ImproperlyConfigured
        from django.tasks.exceptions import InvalidTask
        from django.utils.connection import ConnectionDoesNotExist

        try:
            self._task({})
        except (ConnectionDoesNotExist, ImproperlyConfigured) as error:
            raise self.option_error("tasks_backend", str(error)) from error
        except InvalidTask as error:
            raise BackendConfigurationError(
                f"OUTBOX_PUBLISHERS[{self.alias!r}]['OPTIONS']: TASKS[{self.tasks_backend!r}] "
                f"rejected the task: {error}"
            ) from error

    def send(self, message: Message) -> None:
        """Enqueue a task for each handler of the event; raise its DeliveryError.

        If a task can't be enqueued, the retry of the event enqueues the others again. Because of
        the inbox, those tasks have no effect.
        """
        from django.tasks.exceptions import InvalidTask

        if is_malformed(message):
            redeliver(message)
            return
        handlers = handlers_of(message)
        if not handlers:
            tell_unhandled(message.event_type)
            return
        try:
            task = self._task(message.config)
        except InvalidTask as error:
            raise Rejected(f"TASKS[{self.tasks_backend!r}] rejected the task: {error}") from error
        event = parse_json(message.to_json())
        failures: list[DeliveryError] = []
        for handler in handlers:
            try:
                result = task.enqueue(event, handler.name)
            except _UNAVAILABLE as error:
                raise BackendUnavailable(
                    f"TASKS[{self.tasks_backend!r}]: {type(error).__name__}: {error}"
                ) from error
            failures += _failures(result, handler.name)
        if failures:
            kind: type[DeliveryError] = TransientError
            if any(isinstance(f, AfterCommitFailed) for f in failures):
                kind = AfterCommitFailed  # as in `inbox.dispatch`
            elif all(isinstance(f, Rejected) for f in failures):
                kind = Rejected
            failure = kind("; ".join(map(str, failures)))
            failure.reason = "; ".join(each.reason for each in failures)
            raise failure

    def validate_config(self, config: Mapping[str, Any]) -> None:
        """Raise InvalidPublisherConfig for an unknown key or a wrong value."""
        super().validate_config(config)
        if "queue_name" in config:
            self.read_config.text("queue_name", config["queue_name"])
        if "priority" in config:
            self.read_config.integer("priority", config["priority"], *PRIORITIES)

    def show(self, message: Message) -> Shown:
        """Return the event, and the names of the handlers that its tasks run."""
        handlers = [handler.name for handler in handlers_of(message)]
        queue = message.config.get("queue_name", self.queue_name)
        destination = {"tasks_backend": self.tasks_backend, "queue_name": queue}
        return Shown(
            {**destination, "handlers": ", ".join(handlers) or "(none)"}, {}, message.to_json()
        )

    def _task(self, config: Mapping[str, Any]) -> Any:
        """Return the task for an event's backend and queue; raise InvalidTask."""
        # The module creates a task, which requires `django.setup()`.
        from django_broadcaster.consumers.task import run_handler

        task: Any = run_handler
        return task.using(
            backend=self.tasks_backend,
            queue_name=config.get("queue_name", self.queue_name),
            priority=config.get("priority", self.priority),
        )


def _failures(result: Any, handler: str) -> list[DeliveryError]:
    """Return the failure of a task that ran immediately, as with Django's ImmediateBackend.

    Such a backend has no queue for a failed task, so the event is retried.
    """
    from django.tasks import TaskResultStatus

    if result.status != TaskResultStatus.FAILED:
        return []
    if not result.errors:
        error: DeliveryError = TransientError(f"handler {handler}: the task failed")
        error.reason = str(error)
        return [error]
    failed = result.errors[-1]
    kind: type[DeliveryError] = TransientError
    if issubclass(failed.exception_class, Rejected):
        is_after_commit = issubclass(failed.exception_class, AfterCommitFailed)
        kind = AfterCommitFailed if is_after_commit else Rejected
    last_line = failed.traceback.strip().rpartition("\n")[2]
    error = kind(f"handler {handler}: {last_line}")
    error.reason = f"handler {handler}: {failed.exception_class.__name__}"
    return [error]
