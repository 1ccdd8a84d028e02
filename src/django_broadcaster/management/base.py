"""What all commands but the relay have in common: clear words for what is wrong with their call."""

from __future__ import annotations

from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError
from django.db import Error, InterfaceError, OperationalError

from django_broadcaster.relay.telling import told
from django_broadcaster.store import MIGRATE, lacks_migration


class OutboxCommand(BaseCommand):
    """A command that works on the tables of the outbox."""

    wrong_call: ClassVar[int] = 1
    """The exit status for an argument that is wrong."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Run the command; raises CommandError for text that is none.

        And where a migration is missing, or the database is away.
        """
        for name, value in options.items():
            if isinstance(value, str) and not _is_text(value):
                problem = f"{name}: {value!r} is no text that a database can hold"
                raise CommandError(problem, returncode=self.wrong_call)
        try:
            return super().execute(*args, **options)
        except Error as error:
            if lacks_migration(error):
                raise CommandError(MIGRATE) from error
            if isinstance(error, OperationalError | InterfaceError):
                raise CommandError(f"the database can't be asked: {told(error)}") from error
            raise


def _is_text(value: str) -> bool:
    """Tell whether a value can be stored: a terminal in another encoding gives half characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value
