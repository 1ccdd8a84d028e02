"""The states of an event in the outbox, and the moves between them.

    insert ──► pending ──► published
      │        ▲ ▲ ▲ │ ├──► failed (dead letter)
      ▼        │ │ │ │ └──► cancelled
    scheduled ─┘ │ │ ├──► retry ────┐    an attempt failed, due again later
      ▲          │ └─┼──────────────┘
      │          │   └──► blocked ──┐    an earlier event of its key is in retry
      │          └──────────────────┘
      └── published, failed, cancelled   replayed by an operator

    processing    an application delivers it by itself; no relay writes or takes it

`scheduled`, `retry`, `blocked` and `failed` may also be cancelled. Only the relay that owns a row's
partition moves it into `pending`, so an operator's replay goes through `scheduled`.
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
    """Where an event stands; the value is what the database holds."""

    PENDING = "pending", _("pending")
    PROCESSING = "processing", _("processing")
    SCHEDULED = "scheduled", _("scheduled")
    RETRY = "retry", _("retry")
    BLOCKED = "blocked", _("blocked")
    PUBLISHED = "published", _("published")
    FAILED = "failed", _("failed")
    CANCELLED = "cancelled", _("cancelled")


class OperationKind(models.TextChoices):
    """What an operation does to the events that it is about."""

    RETRY = "retry", _("retry")
    CANCEL = "cancel", _("cancel")
    REPLAY = "replay", _("replay")
    PURGE = "purge", _("purge")


class OperationState(models.TextChoices):
    """How far an operation is: waiting ──► running ──► done, stopped or failed."""

    WAITING = "waiting", _("waiting")
    RUNNING = "running", _("running")
    DONE = "done", _("done")
    STOPPED = "stopped", _("stopped")
    FAILED = "failed", _("failed")


ACTIVE = (OperationState.WAITING, OperationState.RUNNING)
"""States of operations that the relays have still to work on."""

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
"""Every legal move: status -> the statuses it may change to."""

UNDELIVERED = (_S.PENDING, _S.PROCESSING, _S.SCHEDULED, _S.RETRY, _S.BLOCKED)
"""Statuses of events that are still to be delivered."""

FINAL = (_S.PUBLISHED, _S.FAILED, _S.CANCELLED)
"""Statuses that change only when an operator acts."""


def sources_of(target: OutboxEventStatus) -> tuple[OutboxEventStatus, ...]:
    """Return the statuses from which `target` may be reached."""
    return tuple(status for status, targets in TRANSITIONS.items() if target in targets)
