"""`manage.py outbox_cancel`: events that have not been delivered will not be."""

from __future__ import annotations

from django_broadcaster.management.moving import MovingCommand


class Command(MovingCommand):
    """Cancel events that have not been delivered."""

    help = "Cancels events that have not been delivered; their keys go on without them."
    verb = "cancel"
