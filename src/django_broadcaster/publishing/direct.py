"""Publish calls for one backend, whatever routes and handlers there are: tasks, periodic events."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from datetime import datetime
from typing import Any

from django_broadcaster.events import CloudEvent
from django_broadcaster.models import OutboxEvent
from django_broadcaster.states import RETRIES_OF_SETTINGS

from .call import PublishCall
from .single import publish_one
from .transactions import some_transaction


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
    publisher_config: Mapping[str, Any] | None = None,
    max_retries: int | None = None,
    event_id: str | None = None,
    time: datetime | None = None,
    using: str | None = None,
    needs_transaction: bool = True,
) -> OutboxEvent:
    """Write an event without a key for one backend; return its row.

    The row has an identity, by which it can be found, and which exists once. The arguments are
    those of `publish_event`. If the event announces no change of a caller, `needs_transaction` is
    False, and OUTBOX_REQUIRE_TRANSACTION does not apply. Raises PublishError.
    """
    call = _DirectCall(using, lambda: None)
    retries = RETRIES_OF_SETTINGS if max_retries is None else max_retries
    with nullcontext() if needs_transaction else some_transaction(call.connection):
        return publish_one(
            call,
            CloudEvent(event_type, source, data, id=event_id, time=time or call.moment),
            call.delivery(scheduled_at, retries, publisher_config),
            backend=backend,
            partition_key=None,
            unique=True,
        )
