"""`manage.py outbox_replay`: deliver published, failed or cancelled events again."""

from __future__ import annotations

from django_broadcaster.management.moving import MovingCommand


class Command(MovingCommand):
    """Deliver published, failed or cancelled events again."""

    help = "Delivers published, failed or cancelled events again."
    verb = "replay"
