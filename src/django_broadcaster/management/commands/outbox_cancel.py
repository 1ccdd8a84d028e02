"""`manage.py outbox_cancel`: cancel undelivered events."""

from __future__ import annotations

from django_broadcaster.management.moving import MovingCommand


class Command(MovingCommand):
    """Cancel undelivered events."""

    help = "Cancels undelivered events. Later events of their keys are delivered."
    examples = (
        "1291 1292",
        '--type "invoice.*" --since 2026-01-31T14:00',
        "--key customer-7 --dry-run",
    )
    verb = "cancel"
