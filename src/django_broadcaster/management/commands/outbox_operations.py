"""`manage.py outbox_operations`: list or stop background operations."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from django_broadcaster.management.base import OutboxCommand
from django_broadcaster.management.operating import SHOWN, as_row, as_values
from django_broadcaster.management.output import as_json, whoami
from django_broadcaster.management.selection import HIGHEST, add_database, database, whole
from django_broadcaster.models import OutboxOperation


class Command(OutboxCommand):
    """List background operations, or stop some."""

    help = (
        "Lists the operations started with --background, the newest first, or stops some. Stopping "
        "keeps the changes made so far."
    )
    examples = (
        "",
        "7 8 --json",
        '7 --stop --by "Ada: wrong filter"',
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the command's arguments."""
        parser.add_argument(
            "ids",
            nargs="*",
            type=whole(1, HIGHEST),
            metavar="ID",
            help="list only these operations",
        )
        parser.add_argument("--stop", action="store_true", help="stop these operations")
        parser.add_argument(
            "--by", help="with --stop: the name to record (default: the system account)"
        )
        parser.add_argument("--json", action="store_true", help="print JSON")
        add_database(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command; raise CommandError for an unknown id."""
        operations = OutboxOperation.objects.using(database(options["database"]))
        found = self._found(operations, options)
        if options["json"]:
            self.stdout.write(as_json([as_values(each) for each in found]))
        else:
            self.stdout.write(self.table([as_row(each) for each in found]))

    def _found(self, operations: Any, options: dict[str, Any]) -> list[OutboxOperation]:
        ids = options["ids"]
        if not ids:
            if options["stop"]:
                raise CommandError("--stop needs the ids of the operations.")
            return list(operations.order_by("-id")[:SHOWN])
        missing = set(ids) - set(operations.filter(pk__in=ids).values_list("pk", flat=True))
        if missing:
            listed = ", ".join(map(str, sorted(missing)))
            raise CommandError(f"No operation has the id {listed}; it may have been purged.")
        if options["stop"]:
            by = whoami() if options["by"] is None else options["by"]
            for pk in ids:
                operations.stop(pk, by=by)
        return list(operations.filter(pk__in=ids).order_by("-id"))
