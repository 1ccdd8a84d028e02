"""`manage.py outbox_partition`: create time partitions of the outbox's table (PostgreSQL)."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError
from django.db import DatabaseError, connections
from django.utils import timezone

from django_broadcaster.conf import conf
from django_broadcaster.management.base import OutboxCommand
from django_broadcaster.management.selection import add_database, database
from django_broadcaster.relay.log_safety import loggable
from django_broadcaster.retention import span
from django_broadcaster.store import partition_outbox, segments_of


class Command(OutboxCommand):
    """Partition the table, or list its partitions if it has some."""

    help = "Partitions the outbox's table by time (PostgreSQL), or lists its partitions."
    examples = (
        "",
        "--database outbox",
        "--settings mysite.settings",
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the command's arguments."""
        add_database(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command; raise CommandError if the table cannot be partitioned."""
        using = database(options["database"])
        width = span(conf.TIME_PARTITIONS)
        if connections[using].vendor != "postgresql":
            raise CommandError("Time partitions need PostgreSQL.")
        if not width:
            raise CommandError(
                "OUTBOX_TIME_PARTITIONS must be set. Set it to timedelta(days=1), for example, and "
                "restart all publishers and relays, before or after this command."
            )
        try:
            partition_outbox(using, width, timezone.now())
        except DatabaseError as error:
            raise CommandError(f"Could not partition the outbox: {loggable(error)}") from error
        self.stdout.write(self.table([segment._asdict() for segment in segments_of(using)]))
