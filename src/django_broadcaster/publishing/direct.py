"""Publish calls for one backend, which no route, default or handler adds to: calls of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django_broadcaster.events import CloudEvent
from django_broadcaster.models import OutboxEvent
from django_broadcaster.states import RETRIES_OF_SETTINGS

from .call import PublishCall
from .single import publish_one


class _DirectCall(PublishCall):
    """A publish call whose event goes to the backend that it names, and nowhere else."""

    def aliases(self, event_type: str, backend: str | None) -> list[str]:
        """Return the alias that the call names."""
        return [str(backend)]


def publish_directly(
    event_type: str,
    source: str,
    data: Any,
    *,
    backend: str,
    scheduled_at: datetime | None,
    publisher_config: Mapping[str, Any],
    max_retries: int | None = None,
) -> OutboxEvent:
    """Write the event of a call of a task, which has no key; return its row.

    The row has an identity, by which it can be found. Raises PublishError.
    """
    call = _DirectCall(None, lambda: None)
    retries = RETRIES_OF_SETTINGS if max_retries is None else max_retries
    return publish_one(
        call,
        CloudEvent(event_type, source, data, time=call.moment),
        call.delivery(scheduled_at, retries, publisher_config),
        backend=backend,
        partition_key=None,
        unique=True,
    )
