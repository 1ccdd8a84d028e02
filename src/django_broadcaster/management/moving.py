"""The base class of commands that change many events, in short transactions.

With `--background`, the relays change the events.
"""

from __future__ import annotations

import logging
from argparse import ArgumentParser
from typing import Any, ClassVar

from django.core.management.base import CommandError
from django.db import transaction

from django_broadcaster.amounts import counted
from django_broadcaster.management.base import OutboxCommand
from django_broadcaster.models import OutboxEvent, OutboxRelay
from django_broadcaster.models.managers import OutboxEventQuerySet
from django_broadcaster.models.selection import EventSelection
from django_broadcaster.store import MOVES, few_of, is_served, request_operation

from .output import Progress, as_json, whoami
from .selection import add_selection, database, selected

logger = logging.getLogger("django_broadcaster.operations")

CHUNK = 1000
"""Events changed in one transaction."""

MOST_IDS = 1000
"""The limit for ids of a background operation."""

MOST_TOLD = 20
"""The limit for lines about skipped events."""


class MovingCommand(OutboxCommand):
    """A command that applies one action to the selected events."""

    verb: ClassVar[str]
    """The action, as in `3 events to cancel` and `cancel: 3 of 3 events`."""

    forget_inbox: tuple[str, ...] = ()
    """The handlers that a replay runs again."""

    def prepare(self, selection: EventSelection, options: dict[str, Any]) -> None:
        """Check further options before anything changes."""

    def details(self) -> dict[str, Any]:
        """Return further results for JSON."""
        return {}

    def report(self, changed: int) -> None:
        """Print further results, after those of all commands."""

    def move(self, events: OutboxEventQuerySet) -> int:
        """Change some events in a transaction; return how many changed."""
        run = MOVES[self.verb].run
        assert run is not None, "outbox_purge overrides this method"
        with transaction.atomic(using=events.db):
            return run(events, by=self.by)

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the command's arguments."""
        add_selection(parser)
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="report how many events match, without changing them",
        )
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
        parser.add_argument(
            "--no-input", dest="ask", action="store_false", help="do not ask for confirmation"
        )
        parser.add_argument(
            "--background",
            action="store_true",
            help="let the relays change the events; print the id of the operation",
        )
        parser.add_argument(
            "--by",
            help="the name to record in the history (default: the system account)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command; raise CommandError, which exits with 1, for an invalid selection."""
        selection = selected(options)
        everything = OutboxEvent.objects.using(database(options["database"]))
        self.by = whoami() if options["by"] is None else options["by"]
        self.prepare(selection, options)
        if options["background"]:
            self._request(everything, selection, options)
            return
        events = everything.matching(selection).filter(status__in=MOVES[self.verb].sources)
        few = None if selection.ids else few_of(everything, self.verb, selection)
        if few is not None:  # an index found them; the conditions combined may use none
            events = everything.filter(pk__in=few)
        total = events.count() if few is None else len(few)
        changed = 0
        unknown = []
        if total < len(set(options["ids"])):
            unknown = self._tell_others(everything, options["ids"])
        if total and not options["dry_run"]:
            if options["ask"] and not options["ids"]:
                self._confirm(counted(total, "event"))
            changed = self._move_all(events, total)
            logger.info(
                "%s by %s: %d of %d events (%s).", self.verb, self.by, changed, total, selection
            )
        if options["json"]:
            result = {"selected": total, "changed": changed, "dry_run": options["dry_run"]}
            self.stdout.write(as_json({**result, **self.details()}))
        elif options["dry_run"]:
            self.stdout.write(f"{counted(total, 'event')} to {self.verb}")
        elif total or not unknown:
            self.stdout.write(f"{self.verb}: {changed:,} of {counted(total, 'event')}")
            self.report(changed)
        if unknown:
            named = ", ".join(map(str, unknown[:MOST_TOLD]))
            more = f" and {len(unknown) - MOST_TOLD:,} more" if len(unknown) > MOST_TOLD else ""
            raise CommandError(f"The outbox has no event {named}{more}; it may have been purged.")

    def _tell_others(self, everything: OutboxEventQuerySet, ids: list[int]) -> list[int]:
        """Report events whose status does not allow the action; return ids without an event."""
        sources = MOVES[self.verb].sources
        known = dict(everything.filter(pk__in=ids).values_list("pk", "status"))
        wanted = list(dict.fromkeys(ids))
        for pk in [pk for pk in wanted if known.get(pk, sources[0]) not in sources][:MOST_TOLD]:
            possible = ", ".join(sources)
            self.stderr.write(
                f"Skipped: event {pk} is {known[pk]}; {self.verb} needs one of: {possible}."
            )
        return [pk for pk in wanted if pk not in known]

    def _request(
        self, events: OutboxEventQuerySet, selection: EventSelection, options: dict[str, Any]
    ) -> None:
        if options["dry_run"]:
            raise CommandError("--background and --dry-run exclude each other.")
        if len(selection.ids) > MOST_IDS:
            raise CommandError(
                f"--background accepts at most {MOST_IDS:,} ids; use conditions instead."
            )
        if options["ask"] and not selection.ids:
            self._confirm(str(selection))
        operation = request_operation(
            events,
            self.verb,
            selection,
            by=self.by,
            forget_inbox=self.forget_inbox,
        )
        if options["json"]:
            result = {
                "operation": operation.pk,
                "selected": operation.total,
                "is_exact": operation.total_is_exact,
            }
            self.stdout.write(as_json(result))
            return
        about = "" if operation.total_is_exact else "about "
        count = counted(operation.total, "event")
        self.stdout.write(f"operation {operation.pk}: {about}{count} to {self.verb}")
        if not is_served(OutboxRelay.objects.using(events.db)):
            self.stderr.write("No relay is running; the operation starts when one does.")

    def _confirm(self, what: str) -> None:
        self.confirm(f"{what} to {self.verb}", "no events were changed")

    def _move_all(self, events: OutboxEventQuerySet, total: int) -> int:
        progress, changed = Progress(self.stderr, self.verb, total), 0  # type: ignore[arg-type]
        try:
            for chunk in events.in_chunks(CHUNK):
                done = self.move(chunk)
                changed += done
                progress.advance(done)
        except KeyboardInterrupt:
            raise CommandError(
                f"Interrupted after {changed:,} of {counted(total, 'event')}."
            ) from None
        finally:
            progress.end()
        return changed
