"""Pause and resume backends."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from django_broadcaster.models import OutboxBackendState

States = models.QuerySet[OutboxBackendState]


def pause(states: States, alias: str, by: str = "") -> bool:
    """Pause the delivery to a backend; return False if it is already paused.

    Relays poll this once a second, and complete the batch in flight. Waiting events spend no
    retries.
    """
    states.get_or_create(backend=alias)
    waiting = states.filter(backend=alias, paused_at=None)
    return bool(waiting.update(paused_at=timezone.now(), paused_by=by[:255]))


def resume(states: States, alias: str) -> bool:
    """Resume the delivery to a backend; return False if it is not paused."""
    paused = states.filter(backend=alias, paused_at__isnull=False)
    return bool(paused.update(paused_at=None, paused_by=""))


def paused_backends(states: States) -> set[str]:
    """Return the aliases of the paused backends."""
    return set(states.filter(paused_at__isnull=False).values_list("backend", flat=True))
