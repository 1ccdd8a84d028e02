"""`manage.py outbox_resume`: resume delivery to a backend."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django_broadcaster.management.base import OutboxCommand
from django_broadcaster.management.output import as_json
from django_broadcaster.management.selection import add_database, check_backend, database
from django_broadcaster.models import OutboxBackendState
from django_broadcaster.store import resume


class Command(OutboxCommand):
    """Resume delivery to a backend."""

    help = "Resumes delivery to paused backends."
    examples = (
        "default",
        "default audit",
        "default --json",
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the command's arguments."""
        parser.add_argument("backends", nargs="+", metavar="ALIAS", help="alias of a backend")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
        add_database(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command; raise CommandError for an alias that is not configured."""
        for alias in options["backends"]:
            check_backend(alias)
        states = OutboxBackendState.objects.using(database(options["database"]))
        rows = [
            {"backend": alias, "now": "resumed" if resume(states, alias) else "not paused"}
            for alias in options["backends"]
        ]
        self.stdout.write(as_json(rows) if options["json"] else self.table(rows))
