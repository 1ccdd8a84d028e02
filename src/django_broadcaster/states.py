"""The states of an event in the outbox, and the moves between them.

    insert ──► pending ──► published
      │        ▲ ▲ ▲ │ ├──► failed (dead letter)
      ▼        │ │ │ │ └──► cancelled
    scheduled ─┘ │ │ ├──► retry ────┐    an attempt failed, the next one is due later
      ▲          │ └─┼──────────────┘
      │          │   └──► blocked ──┐    an earlier event of its key is in retry
      │          └──────────────────┘
      └── published, failed, cancelled   an operator replayed it

    processing    an application delivers the event; no relay writes or fetches it

`scheduled`, `retry`, `blocked` and `failed` may also become `cancelled`. Only the relay that owns a
row's partition moves it into `pending`, so a replay moves it into `scheduled` first.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from django.db import models
from django.utils.translation import gettext_lazy as _


class _OfSettings(int):
    """The number of retries of an event that is published without `max_retries`."""


RETRIES_OF_SETTINGS: Final = _OfSettings(3)
"""The default of `max_retries`: as the settings and handlers say, which is 3 unless they differ."""


class OutboxEventStatus(models.TextChoices):
    """The status of an event, with its value in the database and its label."""

    PENDING = "pending", _("pending")
    PROCESSING = "processing", _("processing")
    SCHEDULED = "scheduled", _("scheduled")
    RETRY = "retry", _("retry")
    BLOCKED = "blocked", _("blocked")
    PUBLISHED = "published", _("delivered")
    FAILED = "failed", _("dead")
    CANCELLED = "cancelled", _("cancelled")


class OperationKind(models.TextChoices):
    """The kind of an operation on events."""

    RETRY = "retry", _("retry")
    CANCEL = "cancel", _("cancel")
    REPLAY = "replay", _("replay")
    PURGE = "purge", _("purge")


class OperationState(models.TextChoices):
    """The state of an operation: waiting ──► running ──► done, stopped or failed."""

    WAITING = "waiting", _("waiting")
    RUNNING = "running", _("running")
    DONE = "done", _("done")
    STOPPED = "stopped", _("stopped")
    FAILED = "failed", _("failed")


ACTIVE = (OperationState.WAITING, OperationState.RUNNING)
"""The states of operations that have not ended."""

_S = OutboxEventStatus

TRANSITIONS: Mapping[OutboxEventStatus, frozenset[OutboxEventStatus]] = MappingProxyType(
    {
        _S.PENDING: frozenset({_S.PUBLISHED, _S.RETRY, _S.BLOCKED, _S.FAILED, _S.CANCELLED}),
        _S.PROCESSING: frozenset({_S.PENDING, _S.PUBLISHED, _S.RETRY, _S.FAILED, _S.CANCELLED}),
        _S.SCHEDULED: frozenset({_S.PENDING, _S.CANCELLED}),
        _S.RETRY: frozenset({_S.PENDING, _S.CANCELLED}),
        _S.BLOCKED: frozenset({_S.PENDING, _S.CANCELLED}),
        _S.PUBLISHED: frozenset({_S.SCHEDULED}),
        _S.FAILED: frozenset({_S.SCHEDULED, _S.CANCELLED}),
        _S.CANCELLED: frozenset({_S.SCHEDULED}),
    }
)
"""The statuses to which each status may change."""

UNDELIVERED = (_S.PENDING, _S.PROCESSING, _S.SCHEDULED, _S.RETRY, _S.BLOCKED)
"""The statuses of events that are to be delivered."""

FINAL = (_S.PUBLISHED, _S.FAILED, _S.CANCELLED)
"""The statuses that only an operator changes."""


def sources_of(target: OutboxEventStatus) -> tuple[OutboxEventStatus, ...]:
    """Return the statuses that may change to `target`."""
    return tuple(status for status, targets in TRANSITIONS.items() if target in targets)
