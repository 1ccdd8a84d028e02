"""`manage.py outbox_cancel`: events that have not been delivered will not be."""

from __future__ import annotations

from django_broadcaster.management.moving import MovingCommand
from django_broadcaster.querysets import OutboxEventQuerySet
from django_broadcaster.states import OutboxEventStatus, sources_of


class Command(MovingCommand):
    """Cancel events that have not been delivered."""

    help = "Cancels events that have not been delivered; their keys go on without them."
    verb = "cancel"
    movable = sources_of(OutboxEventStatus.CANCELLED)

    def move(self, events: OutboxEventQuerySet) -> int:
        """Cancel them."""
        return events.cancel()
