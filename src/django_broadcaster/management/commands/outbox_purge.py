"""`manage.py outbox_purge`: delete events that are delivered, given up or cancelled."""

from __future__ import annotations

from django_broadcaster.management.moving import MovingCommand
from django_broadcaster.querysets import OutboxEventQuerySet
from django_broadcaster.states import FINAL


class Command(MovingCommand):
    """Delete events for good; those that have still to be delivered are left alone."""

    help = "Deletes events that were delivered, given up or cancelled."
    verb = "purge"
    movable = FINAL

    def move(self, events: OutboxEventQuerySet) -> int:
        """Delete those of them that nobody has made due meanwhile."""
        return events.filter(status__in=FINAL).delete()[0]
