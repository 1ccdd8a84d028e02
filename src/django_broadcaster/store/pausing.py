"""What an operator says about backends: pause, resume."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from django_broadcaster.models import OutboxBackendState

States = models.QuerySet[OutboxBackendState]


def pause(states: States, backend: str, by: str = "") -> bool:
    """Let the relays deliver nothing to a backend; return False if it was paused already.

    What is in flight is finished. Relays look once a second. Events stay where they are, and
    spend no retries.
    """
    states.get_or_create(backend=backend)
    waiting = states.filter(backend=backend, paused_at=None)
    return bool(waiting.update(paused_at=timezone.now(), paused_by=by[:255]))


def resume(states: States, backend: str) -> bool:
    """Let the relays deliver again; return False if it was not paused."""
    paused = states.filter(backend=backend, paused_at__isnull=False)
    return bool(paused.update(paused_at=None, paused_by=""))


def paused_backends(states: States) -> set[str]:
    """Return the aliases that are paused."""
    return set(states.filter(paused_at__isnull=False).values_list("backend", flat=True))
