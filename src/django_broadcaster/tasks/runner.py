"""The backend of the outbox that runs tasks inside the relay, and reports them as Django does.

A task runs as the one handler of its event: through the inbox, in a copy of the context, and with
the same errors, retries and dead letters.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final

from django.dispatch import Signal
from django.tasks import Task, TaskContext, TaskResult, TaskResultStatus
from django.tasks.exceptions import InvalidTask, InvalidTaskBackend
from django.tasks.signals import task_finished, task_started
from django.utils.json import normalize_json

from django_broadcaster.backends.base import (
    Message,
    MessageBackend,
    Outcome,
    Shown,
    as_delivery_error,
)
from django_broadcaster.consumers.parallel import Parallel
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    CannotUnseal,
    DeliveryError,
    Held,
    Rejected,
    TransientError,
)
from django_broadcaster.inbox import failure_of, process
from django_broadcaster.models import OutboxEvent, OutboxTaskRun
from django_broadcaster.registry import Handler
from django_broadcaster.relay.decryption import NotDecryptable
from django_broadcaster.relay.log_safety import loggable
from django_broadcaster.signals import event_failed

from . import runs
from .entry import RUNNER_OPTIONS
from .results import result_of, result_of_row
from .task_events import CONFIG_KEYS, SOURCE, task_of

logger = logging.getLogger("django_broadcaster.relay")

MOST_SECONDS: Final = 1.0
"""After this time no further task of a batch begins."""


class TaskRunner(MessageBackend):
    """Runs the tasks of an `OutboxTaskBackend` inside the relay.

    If a task raises an error, it is retried by the retry policy, and becomes a dead letter in the
    end. `Retry` and `Reject` of `django_broadcaster.exceptions` say more about an error.

    Args:
        atomic: Whether each task runs in a transaction with the record that it has finished. Then
            its changes in that database happen once. Otherwise a task runs again if the relay
            crashes before it has recorded that.
        batch_size: The most tasks for each thread that a relay takes at once.
        concurrency: The threads in which a relay runs tasks, each with its own database
            connections.
    """

    config_keys: ClassVar[frozenset[str]] = CONFIG_KEYS

    def __init__(
        self,
        *,
        atomic: bool = False,
        batch_size: int = 10,
        concurrency: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        given = {"atomic": atomic, "batch_size": batch_size, "concurrency": concurrency}
        for name, value in given.items():
            RUNNER_OPTIONS[name].read(self.read, name, value)
        self._atomic = atomic
        self._concurrency = concurrency
        self.max_batch = concurrency * batch_size
        self._parallel = Parallel(self)

    def open(self) -> None:
        """Report tasks that become dead letters from now on, as Django's signals do."""
        event_failed.connect(self._report_failure, sender=OutboxEvent)

    def close(self) -> None:
        """End the threads."""
        event_failed.disconnect(self._report_failure, sender=OutboxEvent)
        self._parallel.end()

    def send_batch(self, messages: Sequence[Message]) -> list[Outcome]:
        """Run tasks; each thread takes the next one as soon as it is done with one.

        After a second no further task begins, so that a relay that is stopped ends soon. The tasks
        that are left come back as `Held`.
        """
        places = deque(range(len(messages)))
        outcomes: dict[int, Outcome] = {}
        until = time.monotonic() + MOST_SECONDS

        def run_next() -> None:
            while places:
                try:
                    place = places.popleft()
                except IndexError:  # another thread took the last one
                    return
                self.on_progress()
                outcomes[place] = self._outcome(messages[place])
                if time.monotonic() > until:
                    return

        number = min(self._parallel.most(self._concurrency), len(messages))
        self._parallel.run([run_next] * number)
        left = Held("the tasks before it took long")
        return [outcomes.get(place, left) for place in range(len(messages))]

    def _outcome(self, message: Message) -> Outcome:
        try:
            self.send(message)
        except Exception as error:
            return as_delivery_error(error)
        return None

    def send(self, message: Message) -> None:
        """Run the task of an event, unless it has finished before; raises its DeliveryError."""
        event, path = message.event, message.event_type
        if event.source != SOURCE:
            raise Rejected(
                f"the event is not a task, because its source is not {SOURCE!r}; backend "
                f"{self.alias!r} runs tasks only"
            )
        try:
            task = task_of(path, message.config)
        except Exception as error:
            raise TransientError(
                f"task {path} can't run in the relay's process: {type(error).__name__}: {error}; "
                "deploy the version that has the task, and restart the relay"
            ) from error
        try:
            run = runs.begin(event.id, path, self.alias)
        except (CannotUnseal, BackendConfigurationError) as error:
            raise NotDecryptable(error) from error
        if run is None:
            return
        attempt = _Attempt(task, event, run)
        handler = Handler(path, attempt.call, (path,), atomic=self._atomic)
        try:
            has_run = process(event, handler)
        except (Exception, SystemExit) as error:
            self._record(run, path, error)
            raise attempt.failure(handler, error, message.attempt) from error
        if has_run:
            attempt.report_success()

    def _record(self, run: OutboxTaskRun, path: str, error: BaseException) -> None:
        """Record that an attempt failed; log an error of that, as the task's own error decides."""
        try:
            runs.fail(run, error)
        except Exception as problem:
            logger.warning(
                "Could not record the error of task %s: %s; its result will lack this error.",
                path,
                loggable(problem),
                extra={"backend": self.alias},
            )

    def show(self, message: Message) -> Shown:
        """Return the event, and the path, the queue and the priority of the task."""
        config = {name: message.config[name] for name in CONFIG_KEYS if name in message.config}
        return Shown({"task": message.event_type, **config}, {}, message.to_json())

    def _report_failure(self, *, event: OutboxEvent, **_: Any) -> None:
        if event.publisher_backend != self.alias:
            return
        with suppress(ImportError, InvalidTask, InvalidTaskBackend):  # nothing to report it with
            result = result_of_row(event, runs.run_of(event.event_id))
            _send(task_finished, result)


class _Attempt:
    """One attempt to run a task."""

    def __init__(self, task: Task[..., Any], event: CloudEvent, run: OutboxTaskRun) -> None:
        self._task = task
        self._event = event
        self._run = run
        self._is_unfit = False
        """Whether the return value can't be written as JSON."""

    def call(self, event: CloudEvent) -> None:
        """Call the task with the arguments in its event, and record what it returned.

        Raises:
            TypeError: The return value can't be written as JSON.
        """
        result = self._result(TaskResultStatus.RUNNING)
        _send(task_started, result)
        context = [TaskContext(task_result=result)] if self._task.takes_context else []
        value = self._task.call(*context, *result.args, **result.kwargs)
        try:
            value = normalize_json(value)
        except TypeError:
            self._is_unfit = True
            raise
        runs.finish(self._run, value)

    def report_success(self) -> None:
        """Report that the task has finished."""
        _send(task_finished, self._result(TaskResultStatus.SUCCESSFUL))

    def failure(self, handler: Handler, error: BaseException, attempt: int) -> DeliveryError:
        """Return the error of the event."""
        if self._is_unfit:
            cause: Exception = Rejected(f"the return value can't be written as JSON: {error}")
        elif isinstance(error, Exception):
            cause = error
        else:
            cause = TransientError(f"{type(error).__name__}: {error}")
        return failure_of([(handler, cause)], attempt, noun="task")

    def _result(self, status: TaskResultStatus) -> TaskResult[..., Any]:
        run = self._run
        return result_of(self._task, self._event, self._event.time, status, run, run.finished_at)


def _send(signal: Signal, result: TaskResult[..., Any]) -> None:
    """Send a signal of Django's tasks; an error of a receiver is logged, and fails no task."""
    signal.send_robust(type(result.task.get_backend()), task_result=result)
