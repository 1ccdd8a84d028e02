"""The queryset of background operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import connections, models
from django.db.models import F
from django.utils import timezone

from ..states import ACTIVE, OperationState

if TYPE_CHECKING:
    from .operations import OutboxOperation


class OperationQuerySet(models.QuerySet["OutboxOperation"]):
    """Background operations, and how relays work on them."""

    def active(self) -> OperationQuerySet:
        """Return unfinished operations, in the order in which relays run them."""
        return self.filter(state__in=ACTIVE).order_by("id")

    def stop(self, pk: int, *, by: str) -> bool:
        """Stop an operation and keep its changes; return False if it has ended already.

        Waits for the chunk in progress.
        """
        stopped = self.active().filter(pk=pk)
        return bool(
            stopped.update(
                state=OperationState.STOPPED, stopped_by=by[:255], finished_at=timezone.now()
            )
        )

    def next_due(self) -> int | None:
        """Return the id of the next operation; None if it is too early for its next step."""
        first = self.active().only("id", "not_before").first()
        return first.pk if first is not None and first.is_due else None

    def locked(self, pk: int) -> OutboxOperation | None:
        """Lock an operation in a transaction; None if it has ended or another relay locked it."""
        mine = self.active().filter(pk=pk)
        features = connections[self.db].features
        if features.has_select_for_update:
            skips = features.has_select_for_update_skip_locked
            return mine.select_for_update(skip_locked=skips).first()
        mine.update(position=F("position"))  # SQLite locks the whole database at the first write
        return mine.first()
