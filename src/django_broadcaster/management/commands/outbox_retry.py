"""`manage.py outbox_retry`: retry dead letters, and waiting retries, now."""

from __future__ import annotations

from django_broadcaster.management.moving import MovingCommand


class Command(MovingCommand):
    """Retry dead letters, and events that wait for their next attempt, now."""

    help = "Retries dead letters, and events that wait for their next attempt, now."
    examples = (
        "1291",
        '--status failed --error "timed out" --dry-run',
        "--backend audit --status failed --no-input",
    )
    verb = "retry"
