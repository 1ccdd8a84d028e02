"""`manage.py outbox_replay`: deliver events again, those that were delivered too."""

from __future__ import annotations

from django_broadcaster.management.moving import MovingCommand


class Command(MovingCommand):
    """Have events delivered again that were delivered, given up or cancelled."""

    help = "Delivers events again that were delivered, given up or cancelled."
    verb = "replay"
