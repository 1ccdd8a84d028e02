"""`manage.py outbox_status`: how each backend is doing; the exit status says if one is late."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from django_broadcaster.backends.handler import backends
from django_broadcaster.management.operating import SHOWN, as_row
from django_broadcaster.management.output import as_json, as_table
from django_broadcaster.management.selection import add_database, check_backend, database, seconds
from django_broadcaster.models import Operation
from django_broadcaster.querysets import Overview, overviews

LATE = 3
"""The exit status when events wait for longer than `--max-lag`."""


class Command(BaseCommand):
    """Show what waits, since when, and who delivers."""

    help = (
        "Shows for each backend what waits, for how long, and who delivers. Exits with 0, or "
        f"with {LATE} if the first event of a backend that is not paused has been due for longer "
        "than --max-lag."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the command's arguments."""
        parser.add_argument("--backend", action="append", metavar="ALIAS", help="this one only")
        parser.add_argument(
            "--max-lag",
            type=seconds,
            metavar="SECONDS",
            help=f"exit with {LATE} if an event has been due for longer (default: never)",
        )
        parser.add_argument("--json", action="store_true", help="print JSON")
        add_database(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command."""
        for alias in options["backend"] or []:
            check_backend(alias)
        aliases = options["backend"] or backends.aliases()
        using = database(options["database"])
        found = list(overviews(using, aliases))
        if options["json"]:
            self.stdout.write(as_json([each.as_dict() for each in found]))
        else:
            self.stdout.write(as_table([_row(each) for each in found]))
            self._list_operations(using)
        if options["max_lag"] is not None and _is_late(found, options["max_lag"]):
            sys.exit(LATE)

    def _list_operations(self, using: str) -> None:
        """List what the relays do in the background; JSON has it from `outbox_operations`."""
        active = list(Operation.objects.using(using).active()[:SHOWN])
        if active:
            self.stdout.write("\n" + as_table([as_row(each) for each in active]))


def _is_late(found: list[Overview], bound: float) -> bool:
    return any(each.lag > bound for each in found if not each.is_paused)


def _row(each: Overview) -> dict[str, Any]:
    counts = ("pending", "scheduled", "retry", "blocked", "failed")
    return {
        "backend": each.backend,
        **{name: _count(each, name) for name in counts},
        "due for": f"{each.lag:,.1f} s" if each.oldest_due else None,
        "relays": each.relays,
        "state": "paused" if each.is_paused else "on",
    }


def _count(each: Overview, name: str) -> int | str:
    value: int = getattr(each, name)
    return f"{value:,}+" if name in each.at_least else value
