"""The base classes of all commands: examples, output, questions and errors."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    DjangoHelpFormatter,
)
from django.db import Error, InterfaceError, OperationalError

from django_broadcaster.relay.log_safety import loggable
from django_broadcaster.store import MIGRATE, lacks_migration

from .output import Row, as_table

EXAMPLES: Final = "Examples:"


class ExplainedCommand(BaseCommand):
    """A command with examples at the end of its `--help`."""

    examples: ClassVar[tuple[str, ...]]
    """Arguments, as in a shell."""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Return the parser of the command's arguments."""
        lines = [f"  python manage.py {subcommand} {each}".rstrip() for each in self.examples]
        epilog = "\n".join([EXAMPLES, *lines])
        return super().create_parser(
            prog_name, subcommand, epilog=epilog, formatter_class=_Formatter, **kwargs
        )


class _Formatter(DjangoHelpFormatter):
    """Keeps the lines of the examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith(EXAMPLES):
            return text
        return super()._fill_text(text, width, indent)


class OutboxCommand(ExplainedCommand):
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

    @property
    def width(self) -> int | None:
        """The columns of the terminal, None if the output is not a terminal."""
        return shutil.get_terminal_size().columns if self.stdout.isatty() else None

    def table(self, rows: Sequence[Row]) -> str:
        """Return rows as a table that fits the terminal, with the bad cells in colour there."""
        bad = self.style.ERROR if self.stdout.isatty() else str
        return as_table(rows, width=self.width, bad=bad)

    def confirm(self, question: str, otherwise: str) -> None:
        """Ask a person.

        Args:
            question: The action and its extent.
            otherwise: What remains without consent, such as "no events were changed".

        Raises:
            CommandError: The answer is not yes, or there is no terminal.
        """
        if not self.stdout.isatty():
            raise CommandError(
                f"{question}: confirmation needs a terminal; {otherwise}. Add --no-input to "
                "continue without confirmation."
            )
        try:
            answer = input(f"{question}. Continue? [y/N] ")
        except (EOFError, KeyboardInterrupt):  # no answer counts as no
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            raise CommandError(f"Cancelled; {otherwise}.")


def _is_text(value: str) -> bool:
    """Return True if a value can be stored: another encoding's terminal gives half characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value
