"""`manage.py outbox_partition`: put the outbox's table into time partitions, on PostgreSQL."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError
from django.db import DatabaseError, connections
from django.utils import timezone

from django_broadcaster.conf import conf
from django_broadcaster.management.base import OutboxCommand
from django_broadcaster.management.output import as_table
from django_broadcaster.management.selection import add_database, database
from django_broadcaster.relay.telling import told
from django_broadcaster.retention import span
from django_broadcaster.store import partition_outbox, segments_of


class Command(OutboxCommand):
    """Partition the table once; afterwards, list its partitions."""

    help = "Puts the outbox's table into time partitions (PostgreSQL), or lists them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the command's arguments."""
        add_database(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command; raises CommandError where it can't be done."""
        using = database(options["database"])
        width = span(conf.TIME_PARTITIONS)
        if connections[using].vendor != "postgresql":
            raise CommandError("only on PostgreSQL the outbox can be in partitions")
        if not width:
            raise CommandError(
                "OUTBOX_TIME_PARTITIONS is not set: write timedelta(days=1), for example, and "
                "start what publishes or delivers anew, before or after this command"
            )
        try:
            partition_outbox(using, width, timezone.now())
        except DatabaseError as error:
            raise CommandError(f"the outbox was not partitioned: {told(error)}") from error
        self.stdout.write(as_table([segment._asdict() for segment in segments_of(using)]))
