"""The results of tasks, from the rows of the outbox and the records of their runs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from django.db import router
from django.tasks import Task, TaskResult, TaskResultStatus
from django.tasks.base import TaskError

from django_broadcaster.events import CloudEvent
from django_broadcaster.models import OutboxEvent, OutboxTaskRun
from django_broadcaster.states import OutboxEventStatus
from django_broadcaster.store import identity_of

from . import runs
from .task_events import SOURCE, task_of

_ENDED: Final = (OutboxEventStatus.FAILED, OutboxEventStatus.CANCELLED)


def find_result(task_id: str, destinations: Iterable[str]) -> TaskResult[..., Any] | None:
    """Return the result of a task that went to one of these backends; None if it has no row.

    Raises:
        ImportError: The task is no longer there.
        CannotUnseal: No key decrypts the arguments or the result.
    """
    identities = [identity_of(SOURCE, task_id, alias) for alias in destinations]
    # Where they are written: a replica may not have a task that was enqueued just now.
    rows = OutboxEvent.objects.using(router.db_for_write(OutboxEvent))
    row = rows.filter(identity__in=identities).first()
    return None if row is None else result_of_row(row, runs.run_of(task_id))


def result_of_row(
    row: OutboxEvent, run: OutboxTaskRun | None = None, task: Task[..., Any] | None = None
) -> TaskResult[..., Any]:
    """Return the result of the task in a row; raises as `find_result` does.

    By default the task is imported by its path.
    """
    task = task or task_of(row.event_type, row.publisher_config)
    status, finished_at = _status_of(row, run), None
    if status == TaskResultStatus.SUCCESSFUL:
        finished_at = (run and run.finished_at) or row.published_at
    elif status == TaskResultStatus.FAILED:
        finished_at = row.ended_at
    result = result_of(task, row.cloud_event, row.created_at, status, run, finished_at)
    if status == TaskResultStatus.FAILED and not result.errors:
        result.errors.append(_error_of(row))
    return result


def result_of(
    task: Task[..., Any],
    event: CloudEvent,
    enqueued_at: datetime | None,
    status: TaskResultStatus,
    run: OutboxTaskRun | None,
    finished_at: datetime | None = None,
) -> TaskResult[..., Any]:
    """Return the result of a task in a status."""
    outcome = runs.Outcome() if run is None else runs.outcome_of(run)
    result: TaskResult[..., Any] = TaskResult(
        task=task,
        id=event.id,
        status=status,
        enqueued_at=enqueued_at,
        started_at=None if run is None else run.started_at,
        last_attempted_at=None if run is None else run.last_attempted_at,
        finished_at=finished_at,
        args=event.data["args"],
        kwargs=event.data["kwargs"],
        backend=task.backend,
        errors=list(outcome.errors),
        worker_ids=[] if run is None else list(run.worker_ids),
    )
    object.__setattr__(result, "_return_value", outcome.return_value)  # the class is frozen
    return result


def _status_of(row: OutboxEvent, run: OutboxTaskRun | None) -> TaskResultStatus:
    if row.status in _ENDED:
        return TaskResultStatus.FAILED
    # The relay settles a batch of tasks as a whole, some time after this one finished.
    if row.status == OutboxEventStatus.PUBLISHED or (run and run.finished_at):
        return TaskResultStatus.SUCCESSFUL
    return TaskResultStatus.RUNNING if run and run.is_running else TaskResultStatus.READY


def _error_of(row: OutboxEvent) -> TaskError:
    """Return the error of a task that never ran."""
    text = row.last_error
    if row.status == OutboxEventStatus.CANCELLED:
        text = "Rejected: the task was cancelled"
    kind = "TransientError" if text.startswith("TransientError:") else "Rejected"
    return TaskError(exception_class_path=f"django_broadcaster.exceptions.{kind}", traceback=text)
