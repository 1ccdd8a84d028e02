"""What can be done to operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import connections, models
from django.db.models import F
from django.utils import timezone

from ..states import ACTIVE, OperationState

if TYPE_CHECKING:
    from .operations import OutboxOperation


class OperationQuerySet(models.QuerySet["OutboxOperation"]):
    """Operations, and what can be done to them."""

    def active(self) -> OperationQuerySet:
        """Return those that the relays have still to work on, in the order of their turn."""
        return self.filter(state__in=ACTIVE).order_by("id")

    def stop(self, pk: int, *, by: str) -> bool:
        """End an operation where it is; return False if it has ended already.

        It waits for the chunk that is being moved. What was moved stays moved.
        """
        stopped = self.active().filter(pk=pk)
        return bool(
            stopped.update(
                state=OperationState.STOPPED, stopped_by=by[:255], finished_at=timezone.now()
            )
        )

    def next_due(self) -> int | None:
        """Return the id of the operation whose turn it is; None if it is not to be tried yet."""
        first = self.active().only("id", "not_before").first()
        return first.pk if first is not None and first.is_due else None

    def locked(self, pk: int) -> OutboxOperation | None:
        """Lock an operation in a transaction; None if it has ended, or another relay is at it."""
        mine = self.active().filter(pk=pk)
        features = connections[self.db].features
        if features.has_select_for_update:
            skips = features.has_select_for_update_skip_locked
            return mine.select_for_update(skip_locked=skips).first()
        mine.update(position=F("position"))  # SQLite locks everything at the first write
        return mine.first()
