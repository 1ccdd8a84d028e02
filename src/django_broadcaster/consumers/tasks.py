"""Runs the handlers of `event_registry` as tasks of Django (`django.tasks`, Django 6.0 or newer).

For each handler of an event one task is enqueued, which runs it through the inbox: once per event,
also when the task runs twice or the event is delivered again. An event counts as delivered when
its tasks are enqueued; what becomes of them is the affair of the project's TASKS.
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

PRIORITIES: Final = (-100, 100)

_AWAY: Final = (InterfaceError, OperationalError, OSError)
"""A queue in a database that is away, or on a server that can't be reached."""


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
        """See that TASKS has the backend and the queue; raises BackendConfigurationError."""
        from django.core.exceptions import ImproperlyConfigured
        from django.tasks.exceptions import InvalidTask
        from django.utils.connection import ConnectionDoesNotExist

        try:
            self._task({})
        except (ConnectionDoesNotExist, ImproperlyConfigured) as error:
            raise self.option_error("tasks_backend", str(error)) from error
        except InvalidTask as error:
            raise BackendConfigurationError(
                f"OUTBOX_PUBLISHERS[{self.alias!r}]['OPTIONS']: TASKS[{self.tasks_backend!r}] does "
                f"not take it: {error}"
            ) from error

    def send(self, message: Message) -> None:
        """Enqueue the event's handlers; raises its DeliveryError.

        A handler whose task was enqueued before another one's failed gets a second task when the
        event is tried again; the inbox makes it have no effect.
        """
        from django.tasks.exceptions import InvalidTask

        # What it runs are consumers, and models can't be imported before `django.setup()`.
        from django_broadcaster.registry import event_registry

        handlers = event_registry.handlers_for(message.event_type)
        if not handlers:
            tell_unhandled(message.event_type)
            return
        try:
            task = self._task(message.config)
        except InvalidTask as error:
            raise Rejected(f"TASKS[{self.tasks_backend!r}] does not take it: {error}") from error
        event = parse_json(message.to_json())
        failures: list[DeliveryError] = []
        for handler in handlers:
            try:
                result = task.enqueue(event, handler.name)
            except _AWAY as error:
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
        """Return the event that the tasks are given, and which handlers they run."""
        from django_broadcaster.registry import event_registry

        handlers = [handler.name for handler in event_registry.handlers_for(message.event_type)]
        queue = message.config.get("queue_name", self.queue_name)
        destination = {"tasks_backend": self.tasks_backend, "queue_name": queue}
        return Shown(
            {**destination, "handlers": ", ".join(handlers) or "(none)"}, {}, message.to_json()
        )

    def _task(self, config: Mapping[str, Any]) -> Any:
        """Return the task for the backend and the queue that are wanted; raises InvalidTask."""
        # Its module makes a task, for which Django has to be set up.
        from django_broadcaster.consumers.task import run_handler

        task: Any = run_handler
        return task.using(
            backend=self.tasks_backend,
            queue_name=config.get("queue_name", self.queue_name),
            priority=config.get("priority", self.priority),
        )


def _failures(result: Any, handler: str) -> list[DeliveryError]:
    """Return the failure of a task that ran at once, as Django's ImmediateBackend runs all.

    Such a backend has no queue where a failed task could stand: the event is tried again.
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
