"""`manage.py outbox_replay`: deliver published, failed or cancelled events again."""

from __future__ import annotations

from django_broadcaster.management.moving import MovingCommand


class Command(MovingCommand):
    """Deliver published, failed or cancelled events again."""

    help = "Delivers published, failed or cancelled events again."
    examples = (
        "1291",
        '--type "invoice.*" --since 2026-01-31 --until 2026-02-01',
        "--backend audit --status published --background --by Ada",
    )
    verb = "replay"
