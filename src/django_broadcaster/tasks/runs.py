"""The record of a task's run: a row when it begins, which its result or its error completes.

Each task has one row for all its attempts. The result is written in the task's own transaction, if
it has one.
"""

from __future__ import annotations

import json
import os
import socket
from traceback import format_exception
from typing import Any, Final, NamedTuple

from django.db import router
from django.tasks.base import TaskError
from django.utils import timezone

from django_broadcaster import encryption
from django_broadcaster.error_places import from_project
from django_broadcaster.models import OutboxTaskRun
from django_broadcaster.redaction import text_for_row
from django_broadcaster.store import identity_of

from .task_events import SOURCE

MOST_ERRORS: Final = 10
"""The errors that are kept of a task, those of its last attempts."""

LONGEST_TRACEBACK: Final = 20_000
"""The characters that are kept of a traceback, the last ones."""


class Outcome(NamedTuple):
    """The return value of a task, and the errors of its attempts that failed."""

    return_value: Any = None
    errors: tuple[TaskError, ...] = ()


def begin(task_id: str, task: str, backend: str) -> OutboxTaskRun | None:
    """Record that an attempt begins; return the record, or None if the task has finished before.

    The record has the path of the task, and the identity of its event.

    Raises CannotUnseal if no key decrypts the errors so far: those of the attempt could not be
    added to them.
    """
    now = timezone.now()
    begun = {"last_attempted_at": now, "is_running": True}
    worker = f"{socket.gethostname()}:{os.getpid()}"
    run = run_of(task_id)
    if run is None:
        # If another relay is as far, this one gets an IntegrityError, and the task is retried.
        identity = identity_of(SOURCE, task_id, backend)
        names = {"task_id": task_id, "task": task, "backend": backend, "identity": identity}
        run = OutboxTaskRun(**names, started_at=now, worker_ids=[worker], **begun)
        run.save(force_insert=True, using=_using())
    elif run.finished_at is not None:
        return None
    else:
        outcome_of(run)
        _change(run, **begun, worker_ids=[*run.worker_ids, worker])
    return run


def finish(run: OutboxTaskRun, return_value: Any) -> None:
    """Record the result of a task, in JSON's types."""
    outcome = outcome_of(run)._replace(return_value=return_value)
    _change(run, is_running=False, finished_at=timezone.now(), **_columns(outcome))


def fail(run: OutboxTaskRun, error: BaseException) -> None:
    """Record that an attempt failed."""
    kind = type(error)
    text = "".join(format_exception(kind, error, from_project(error.__traceback__)))
    failed = TaskError(
        exception_class_path=f"{kind.__module__}.{kind.__qualname__}",
        traceback=text_for_row(text[-LONGEST_TRACEBACK:], LONGEST_TRACEBACK),
    )
    run.refresh_from_db(using=_using())  # its transaction may have been rolled back
    outcome = outcome_of(run)
    errors = (*outcome.errors, failed)[-MOST_ERRORS:]
    _change(run, is_running=False, **_columns(outcome._replace(errors=errors)))


def run_of(task_id: str) -> OutboxTaskRun | None:
    """Return the record of a task; None if it has not begun."""
    run: OutboxTaskRun | None = _rows().filter(task_id=task_id).first()
    return run


def outcome_of(run: OutboxTaskRun) -> Outcome:
    """Return the outcome so far; raises CannotUnseal if no key decrypts it."""
    text: str | None = run.outcome
    if run.sealed is not None:
        text, _ = encryption.unseal(run.sealed)
    if not text:
        return Outcome()
    found = json.loads(text)
    errors = (
        TaskError(exception_class_path=path, traceback=trace) for path, trace in found["errors"]
    )
    return Outcome(found["return_value"], tuple(errors))


def _using() -> str:
    return router.db_for_write(OutboxTaskRun)


def _rows() -> Any:
    return OutboxTaskRun.objects.using(_using())


def _change(run: OutboxTaskRun, **values: Any) -> None:
    _rows().filter(pk=run.pk).update(**values)
    for name, value in values.items():
        setattr(run, name, value)


def _columns(outcome: Outcome) -> dict[str, Any]:
    errors = [(each.exception_class_path, each.traceback) for each in outcome.errors]
    # ASCII, which every column can hold, also of a character that its encoding lacks.
    text = json.dumps({"return_value": outcome.return_value, "errors": errors})
    if encryption.is_on():
        return {"outcome": "", "sealed": encryption.seal(text, None)}
    return {"outcome": text, "sealed": None}
