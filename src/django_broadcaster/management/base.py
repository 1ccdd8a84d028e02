"""What all commands but the relay have in common: they say when the database is not migrated."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error

from django_broadcaster.querysets import MIGRATE, lacks_migration


class OutboxCommand(BaseCommand):
    """A command that works on the tables of the outbox."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Run the command; raises CommandError where a migration is missing."""
        try:
            return super().execute(*args, **options)
        except Error as error:
            if lacks_migration(error):
                raise CommandError(MIGRATE) from error
            raise
