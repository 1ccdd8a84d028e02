"""The commands that change many events: select, ask, change in short transactions, report."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from django_broadcaster.querysets import OutboxEventQuerySet

from .output import Progress, as_json
from .selection import add_selection, selected

CHUNK = 1000
"""Events that one transaction changes."""


class MovingCommand(BaseCommand):
    """A command that does one thing to the events that are selected."""

    verb: ClassVar[str]
    """What is done, as `3 events to cancel` and `cancel: 3 of 3` say it."""

    movable: ClassVar[tuple[str, ...]]
    """The states in which it can be done."""

    def move(self, events: OutboxEventQuerySet) -> int:
        """Do it to some events; return to how many."""
        raise NotImplementedError

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the command's arguments."""
        add_selection(parser)
        parser.add_argument("--dry-run", action="store_true", help="only say how many there are")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
        parser.add_argument(
            "--no-input", dest="ask", action="store_false", help="do not ask for confirmation"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command; raises CommandError, and so exits with 1, for a wrong selection."""
        events = selected(options).filter(status__in=self.movable)
        total = events.count()
        changed = 0
        if total and not options["dry_run"]:
            if options["ask"] and not options["ids"]:
                self._confirm(total)
            changed = self._move_all(events, total)
        if options["json"]:
            result = {"selected": total, "changed": changed, "dry_run": options["dry_run"]}
            self.stdout.write(as_json(result))
        elif options["dry_run"]:
            self.stdout.write(f"{total:,} events to {self.verb}")
        else:
            self.stdout.write(f"{self.verb}: {changed:,} of {total:,} events")

    def _confirm(self, total: int) -> None:
        if not self.stdout.isatty():  # a script can't answer, and has said what it wants
            return
        answer = input(f"{total:,} events to {self.verb}. Go on? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            raise CommandError("nothing was changed")

    def _move_all(self, events: OutboxEventQuerySet, total: int) -> int:
        progress, changed = Progress(self.stderr, self.verb, total), 0  # type: ignore[arg-type]
        try:
            for chunk in events.in_chunks(CHUNK):
                done = _in_transaction(self.move, chunk)
                changed += done
                progress.advance(done)
        finally:
            progress.end()
        return changed


def _in_transaction(move: Callable[[OutboxEventQuerySet], int], events: OutboxEventQuerySet) -> int:
    with transaction.atomic(using=events.db):
        return move(events)
