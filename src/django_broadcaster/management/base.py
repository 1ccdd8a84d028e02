"""The base class of all commands but `outbox_worker`: errors of arguments and the database."""

from __future__ import annotations

from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError
from django.db import Error, InterfaceError, OperationalError

from django_broadcaster.relay.log_safety import loggable
from django_broadcaster.store import MIGRATE, lacks_migration


class OutboxCommand(BaseCommand):
    """A command that uses the outbox's tables."""

    wrong_call: ClassVar[int] = 1
    """The exit status for an invalid argument."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Run the command.

        Raises:
            CommandError: An argument cannot be stored, a migration is missing, or the database is
                unavailable.
        """
        for name, value in options.items():
            if isinstance(value, str) and not _is_text(value):
                problem = f"{name} must be text that a database can store, not {value!r}."
                raise CommandError(problem, returncode=self.wrong_call)
        try:
            return super().execute(*args, **options)
        except Error as error:
            if lacks_migration(error):
                raise CommandError(MIGRATE) from error
            if isinstance(error, OperationalError | InterfaceError):
                raise CommandError(f"Database query failed: {loggable(error)}") from error
            raise


def _is_text(value: str) -> bool:
    """Return True if a value can be stored: another encoding's terminal gives half characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value
