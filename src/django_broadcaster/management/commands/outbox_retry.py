"""`manage.py outbox_retry`: dead letters, and events that wait for a retry, are due now."""

from __future__ import annotations

from django_broadcaster.management.moving import MovingCommand


class Command(MovingCommand):
    """Have dead letters delivered again, and end the pause of events that wait for a retry."""

    help = "Lets dead letters, and events that wait for a retry, be due now."
    verb = "retry"
