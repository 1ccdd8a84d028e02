"""From a call of `enqueue` to the row of a task in the outbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.tasks import Task
from django.utils.json import normalize_json

from django_broadcaster.events import CloudEvent
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishing import PublishCall, publish_one
from django_broadcaster.states import RETRIES_OF_SETTINGS

from .task_events import SOURCE, config_of


class _TaskCall(PublishCall):
    """The publish call of a task: it goes to its own backend, and to no handler."""

    def aliases(self, event_type: str, backend: str | None) -> list[str]:
        """Return the alias that the call names."""
        return [str(backend)]


def write_task(
    task: Task[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    destination: str,
    max_retries: int | None,
) -> OutboxEvent:
    """Write the event of a task, and return its row.

    Raises:
        TypeError: An argument can't be written as JSON.
        PublishError: The event can't be written.
    """
    data = {"args": normalize_json(list(args)), "kwargs": normalize_json(dict(kwargs))}
    call = _TaskCall(None, lambda: None)
    retries = RETRIES_OF_SETTINGS if max_retries is None else max_retries
    return publish_one(
        call,
        CloudEvent(task.module_path, SOURCE, data, time=call.moment),
        call.delivery(task.run_after, retries, config_of(task)),
        backend=destination,
        partition_key=None,
        unique=True,  # so that the row has an identity, by which results are found
    )
