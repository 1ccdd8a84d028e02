"""`manage.py outbox_consumer`: receive for consumers, and deliver to no backend."""

from __future__ import annotations

from .outbox_worker import Command as Worker


class Command(Worker):
    """Run receivers until stopped by SIGTERM or SIGINT."""

    help = (
        "Receives the messages of OUTBOX_CONSUMERS into the outbox. Another process runs their "
        "handlers: outbox_worker. SIGTERM or SIGINT stops the command cleanly."
    )
    examples = ("", "--consumer orders", "--health-port 8080 --processes 2")
    delivers = False
