"""`manage.py outbox_status`: show backlog, lag and relays of each backend, and the consumers."""

from __future__ import annotations

import sys
import textwrap
from argparse import ArgumentParser
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django_broadcaster.amounts import duration, size
from django_broadcaster.backends.handler import backends
from django_broadcaster.consumers.handler import consumers
from django_broadcaster.management.base import OutboxCommand
from django_broadcaster.management.operating import SHOWN, as_row
from django_broadcaster.management.output import Bad, as_json, printable
from django_broadcaster.management.selection import (
    HIGHEST,
    add_database,
    check_backend,
    database,
    seconds,
    whole,
)
from django_broadcaster.models import OutboxOperation
from django_broadcaster.store import (
    ConsumerJudgement,
    Judgement,
    Overview,
    Slot,
    State,
    consumer_judgements,
    judgements,
    with_leftovers,
)

STATUSES = ("pending", "scheduled", "retry", "blocked", "failed")

LATE = 3
"""The exit status if a limit is exceeded."""


class Command(OutboxCommand):
    """Show the backlog, the lag and the relays of each backend."""

    help = (
        "Shows the backlog, the state and the relays of each backend. Exits with 0. With a limit, "
        f"exits with {LATE} if a backend that is not paused exceeds it or is failing."
    )
    examples = (
        "",
        "--backend default --json",
        "--max-lag 60 --max-failed 0",
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
        parser.add_argument(
            "--max-failed",
            type=whole(0, HIGHEST),
            metavar="N",
            help=f"exit with {LATE} if a backend has more dead letters (default: no limit)",
        )
        parser.add_argument("--json", action="store_true", help="print JSON")
        add_database(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command."""
        for alias in options["backend"] or []:
            check_backend(alias)
        using = database(options["database"])
        configured = backends.aliases()
        aliases = options["backend"] or with_leftovers(using, configured)
        found = list(judgements(using, aliases, configured, backends.slots()))
        limits = {name: options[f"max_{name}"] for name in ("lag", "retry_age", "failed")}
        heard = [] if options["backend"] else [*consumer_judgements(using, consumers.aliases())]
        if options["json"]:
            states = [each.as_dict() for each in found] + [each.as_dict() for each in heard]
            self.stdout.write(as_json(states))
        else:
            has_slots = any(each.facts.slot is not None for each in found)
            rows = [_row(each, limits, has_slots=has_slots) for each in found]
            self.stdout.write(self.table(rows))
            if heard:
                self.stdout.write("\n" + self.table([_row_of_consumer(each) for each in heard]))
            self._explain({each.overview.backend: each for each in found})
            self._explain({f"consumer {each.consumer}": each for each in heard})
            self._list_operations(using)
        if any(_is_late(each, limits) for each in found):
            sys.exit(LATE)

    def _explain(self, found: Mapping[str, Judgement] | Mapping[str, ConsumerJudgement]) -> None:
        """Explain the states that need attention."""
        for name, each in found.items():
            if each.needs_attention:
                why = printable(f"{name}: {each.text}")
                self.stdout.write("\n" + (textwrap.fill(why, self.width) if self.width else why))

    def _list_operations(self, using: str) -> None:
        """List the active background operations; `outbox_operations --json` has them as JSON."""
        active = list(OutboxOperation.objects.using(using).active()[:SHOWN])
        if active:
            self.stdout.write("\n" + self.table([as_row(each) for each in active]))


Limits = dict[str, float | None]


def _is_late(each: Judgement, limits: Limits) -> bool:
    if each.overview.is_paused:
        return False
    is_failing = each.state == State.FAILING and any(limit is not None for limit in limits.values())
    return is_failing or any(_exceeds(each, name, limits) for name in limits)


def _exceeds(each: Judgement, name: str, limits: Limits) -> bool:
    limit = limits[name]
    return limit is not None and getattr(each.overview, name) > limit


def _row(each: Judgement, limits: Limits, *, has_slots: bool) -> dict[str, Any]:
    found = each.overview
    over = {name: _exceeds(each, name, limits) and not found.is_paused for name in limits}
    counts = {name: _count(found, name) for name in STATUSES}
    if over["failed"]:
        counts["failed"] = Bad(f"{counts['failed']} HIGH")
    return {
        "backend": found.backend,
        **counts,
        "oldest waiting": _age(found.waiting_age, found.oldest_waiting, over["lag"]),
        "oldest retry": _age(found.retry_age, found.oldest_retry, over["retry_age"]),
        "relays": found.relays,
        **(_slot_cells(each.facts.slot) if has_slots else {}),
        "state": Bad(each.state) if each.needs_attention else each.state,
    }


def _slot_cells(slot: Slot | None) -> dict[str, Any]:
    return {
        "slot lag": None if slot is None else size(slot.lag),
        "slot WAL": None if slot is None else size(slot.retained),
    }


def _row_of_consumer(each: ConsumerJudgement) -> dict[str, Any]:
    return {
        "consumer": each.consumer,
        "lag": "" if each.lag is None else f"{each.lag:,}",
        "per second": f"{each.per_second:,.1f}",
        "received": f"{each.received:,}",
        "duplicates": f"{each.duplicates:,}",
        "malformed": f"{each.malformed:,}",
        "receivers": each.receivers,
        "state": Bad(each.state) if each.needs_attention else each.state,
    }


def _age(seconds: float, since: datetime | None, is_late: bool) -> str | None:
    if since is None:
        return None
    return Bad(f"{duration(seconds)} LATE") if is_late else duration(seconds)


def _count(each: Overview, name: str) -> str:
    return f"{getattr(each, name):,}{'+' if name in each.at_least else ''}"
