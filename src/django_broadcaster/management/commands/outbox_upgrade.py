"""`manage.py outbox_upgrade`: move events between the tables of 0.1.1 and this version."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

from django.core.management.base import CommandError
from django.db import DatabaseError

from django_broadcaster.amounts import counted
from django_broadcaster.management.base import OutboxCommand
from django_broadcaster.management.output import Progress
from django_broadcaster.management.selection import add_database, database
from django_broadcaster.models import OutboxEvent, OutboxRelay
from django_broadcaster.relay.log_safety import loggable
from django_broadcaster.store import is_served
from django_broadcaster.upgrade import OldTable, ReferencedError, Report, move_back, move_events


class Command(OutboxCommand):
    """Move events from the table of 0.1.1 into the outbox, or back; or drop that table."""

    help = (
        "Moves events from outbox_events, the table of version 0.1.1, into the outbox. migrate "
        "does this once; run the command again after the last process of 0.1.1 has exited."
    )
    examples = (
        "",
        "--back",
        "--drop --no-input",
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the command's arguments."""
        what = parser.add_mutually_exclusive_group()
        what.add_argument(
            "--back",
            action="store_true",
            help="move undelivered events back to outbox_events, to return to 0.1.1",
        )
        what.add_argument(
            "--drop",
            action="store_true",
            help="drop outbox_events, which must be empty",
        )
        parser.add_argument(
            "--no-input",
            "--noinput",
            action="store_false",
            dest="ask",
            help="do not ask for confirmation before dropping the table",
        )
        add_database(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command; raise CommandError if it fails."""
        using = database(options["database"])
        old = OldTable(using)
        if not old.exists():
            if options["back"]:
                raise CommandError(
                    "The table outbox_events does not exist. Install 0.1.1, run its migrate "
                    "command, and install this version again."
                )
            self.stdout.write("The table outbox_events of version 0.1.1 does not exist.")
        elif options["drop"]:
            self._drop(old, ask=options["ask"])
        elif options["back"]:
            self._move_back(using)
        else:
            self._move(old)

    def _move(self, old: OldTable) -> None:
        counts = old.counts()
        listed = ", ".join(f"{count:,} {status}" for status, count in counts.items())
        self.stdout.write(f"The table outbox_events has {listed or 'no'} rows.")
        if counts:
            self._run("Moving events of 0.1.1", sum(counts.values()), move_events, old.using)

    def _move_back(self, using: str) -> None:
        if is_served(OutboxRelay.objects.using(using)):
            raise CommandError("A relay is running. Stop all relays and publishers first.")
        total = OutboxEvent.objects.using(using).undelivered().count()
        report = self._run("Moving events back", total, move_back, using)
        if report.refused:
            raise CommandError(
                f"{counted(len(report.refused), 'event')} could not be moved; still in the outbox."
            )

    def _run(
        self,
        what: str,
        total: int,
        move: Callable[[str, Callable[[int], None]], Report],
        using: str,
    ) -> Report:
        progress = Progress(self.stderr, what, total)  # type: ignore[arg-type]
        try:
            report = move(using, progress.advance)
        except KeyboardInterrupt:
            raise CommandError(
                "Interrupted. Run the command again to move the remaining events."
            ) from None
        except ReferencedError as error:
            raise CommandError(str(error)) from error
        finally:
            progress.end()
        for line in report.lines():
            self.stdout.write(line)
        return report

    def _drop(self, old: OldTable, *, ask: bool) -> None:
        if not old.is_empty():
            raise CommandError(
                "outbox_events must be empty. Run outbox_upgrade without --drop to move its events."
            )
        if ask:
            what = "Drop the table outbox_events of version 0.1.1"
            self.confirm(what, "the table was not dropped")
        try:
            dropped = old.drop_if_empty()
        except DatabaseError as error:
            raise CommandError(f"Could not drop outbox_events: {loggable(error)}") from error
        if not dropped:
            raise CommandError(
                "outbox_events got new rows meanwhile. Run outbox_upgrade to move them."
            )
        self.stdout.write("Dropped the table outbox_events.")
