"""`manage.py outbox_status`: show backlog, lag and relays of each backend."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django_broadcaster.backends.handler import backends
from django_broadcaster.management.base import OutboxCommand
from django_broadcaster.management.operating import SHOWN, as_row
from django_broadcaster.management.output import Bad, as_json, duration, printable
from django_broadcaster.management.selection import add_database, check_backend, database, seconds
from django_broadcaster.models import OutboxOperation
from django_broadcaster.store import Overview, overviews, with_leftovers

LATE = 3
"""The exit status if `--max-lag` or `--max-retry-age` is exceeded."""

AWAY, UNKNOWN = "broker unavailable", "not configured"


class Command(OutboxCommand):
    """Show the backlog, the lag and the relays of each backend."""

    help = (
        "Shows the backlog, the lag and the relays of each backend. Exits with 0, or with "
        f"{LATE} if a backend that is not paused exceeds --max-lag or --max-retry-age."
    )
    examples = (
        "",
        "--backend default --json",
        "--max-lag 60 --max-retry-age 3600",
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the command's arguments."""
        parser.add_argument(
            "--backend",
            action="append",
            metavar="ALIAS",
            help="show only this backend; can be repeated",
        )
        parser.add_argument(
            "--max-lag",
            type=seconds,
            metavar="SECONDS",
            help=f"exit with {LATE} if an event has been due for longer (default: no limit)",
        )
        parser.add_argument(
            "--max-retry-age",
            type=seconds,
            metavar="SECONDS",
            help=f"exit with {LATE} if an event in retry is older (default: no limit)",
        )
        parser.add_argument("--json", action="store_true", help="print JSON")
        add_database(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command."""
        for alias in options["backend"] or []:
            check_backend(alias)
        using = database(options["database"])
        aliases = options["backend"] or with_leftovers(using, backends.aliases())
        found = list(overviews(using, aliases))
        limits: Limits = {name: options[f"max_{name}"] for name in ("lag", "retry_age")}
        if options["json"]:
            self.stdout.write(as_json([each.as_dict() for each in found]))
        else:
            self.stdout.write(self.table([_row(each, limits) for each in found]))
            self._explain(found)
            self._list_operations(using)
        if any(_exceeds(each, name, limits) for each in found for name in limits):
            sys.exit(LATE)

    def _explain(self, found: list[Overview]) -> None:
        """Explain the states of backends that are not delivered to."""
        for each in found:
            if why := _explanation(each):
                self.stdout.write("\n" + printable(f"{each.backend}: {why}"))

    def _list_operations(self, using: str) -> None:
        """List the active background operations; `outbox_operations --json` has them as JSON."""
        active = list(OutboxOperation.objects.using(using).active()[:SHOWN])
        if active:
            self.stdout.write("\n" + self.table([as_row(each) for each in active]))


Limits = dict[str, float | None]


def _exceeds(each: Overview, name: str, limits: Limits) -> bool:
    limit = limits[name]
    return limit is not None and not each.is_paused and getattr(each, name) > limit


def _state(each: Overview) -> str:
    if each.backend not in backends.aliases():
        return UNKNOWN
    if each.is_paused:
        return "paused"
    return "on" if each.away_since is None else AWAY


def _explanation(each: Overview) -> str:
    state = _state(each)
    if state == UNKNOWN:
        return "not in OUTBOX_PUBLISHERS, so no relay delivers its events"
    if state == AWAY and each.away_since is not None:
        seconds = (datetime.now(UTC) - each.away_since).total_seconds()
        return f"{state} for {duration(max(0, seconds))}: {each.away_because}"
    return ""


def _row(each: Overview, limits: Limits) -> dict[str, Any]:
    state = _state(each)
    counts = ("pending", "scheduled", "retry", "blocked", "failed")
    return {
        "backend": each.backend,
        **{name: _count(each, name) for name in counts},
        "due for": _age(each, "lag", limits) if each.oldest_due else None,
        "oldest retry": _age(each, "retry_age", limits) if each.oldest_retry else None,
        "relays": each.relays,
        "state": state if state == "on" else Bad(state),
    }


def _age(each: Overview, name: str, limits: Limits) -> str:
    text = duration(getattr(each, name))
    return Bad(f"{text} LATE") if _exceeds(each, name, limits) else text


def _count(each: Overview, name: str) -> str:
    return f"{getattr(each, name):,}{'+' if name in each.at_least else ''}"
