"""`manage.py outbox_replay`: deliver events again, those that were delivered too."""

from __future__ import annotations

from django_broadcaster.management.moving import MovingCommand
from django_broadcaster.querysets import OutboxEventQuerySet
from django_broadcaster.states import OutboxEventStatus, sources_of


class Command(MovingCommand):
    """Have events delivered again that were delivered, given up or cancelled."""

    help = "Delivers events again that were delivered, given up or cancelled."
    verb = "replay"
    movable = sources_of(OutboxEventStatus.SCHEDULED)

    def move(self, events: OutboxEventQuerySet) -> int:
        """Make them due, with all their retries."""
        return events.replay()
