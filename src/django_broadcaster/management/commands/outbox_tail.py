"""`manage.py outbox_tail`: follow events as they are delivered."""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django_broadcaster.management.base import OutboxCommand
from django_broadcaster.management.output import as_json, printable
from django_broadcaster.management.selection import (
    HIGHEST,
    add_database,
    check_backend,
    database,
    whole,
)
from django_broadcaster.models import OutboxEvent
from django_broadcaster.querysets import EventSelection, OutboxEventQuerySet
from django_broadcaster.states import OutboxEventStatus

LOOK_SECONDS = 0.5
LATE_IDS = 1000
"""How far behind the newest event it looks again: a lower id may commit late."""

S = OutboxEventStatus
STILL_DUE = (S.PENDING, S.RETRY, S.BLOCKED)

SHOWN = ("id", "published_at", "publisher_backend", "event_type", "partition_key", "event_id")


class Command(OutboxCommand):
    """Print a line for each event that is delivered, until interrupted."""

    help = (
        "Follows events as they are delivered, without their payloads. Sees none where "
        "OUTBOX_RETENTION is 0, and of those that are retried or replayed only the newest."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the command's arguments."""
        parser.add_argument("--backend", metavar="ALIAS", help="events to this alias only")
        parser.add_argument("--type", dest="event_type", help="this event type; `order.*` works")
        parser.add_argument("--key", help="events of this partition key")
        parser.add_argument(
            "--count",
            type=whole(1, HIGHEST),
            help="end after so many events (default: never)",
        )
        parser.add_argument("--json", action="store_true", help="print a JSON object a line")
        add_database(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command."""
        check_backend(options["backend"])
        try:
            for number, row in enumerate(_follow(options), start=1):
                line = as_json(row, on_one_line=True) if options["json"] else _line(row)
                self.stdout.write(line)
                self.stdout.flush()
                if number == options["count"]:
                    break
        except KeyboardInterrupt:
            self.stdout.write("")
        except BrokenPipeError:  # its reader, `head` for example, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _follow(options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each event once that is delivered from now on, as far as it was due or comes later."""
    everything = OutboxEvent.objects.using(database(options["database"]))
    wanted = everything.matching(
        EventSelection(
            backend=options["backend"] or "",
            event_type=options["event_type"] or "",
            key=options["key"] or "",
        )
    )
    start = _first_undelivered(everything, 0)
    seen = set(wanted.filter(id__gte=start, status=S.PUBLISHED).values_list("id", flat=True))
    while True:
        rows = wanted.filter(id__gte=start, status=S.PUBLISHED).order_by("published_at", "id")
        for row in rows.values(*SHOWN):
            if row["id"] not in seen:
                seen.add(row["id"])
                yield row
        start = _first_undelivered(everything, start)
        seen = {row_id for row_id in seen if row_id >= start}
        time.sleep(LOOK_SECONDS)


def _first_undelivered(events: OutboxEventQuerySet, start: int) -> int:
    """Return the id from which on anything may still be delivered, or a little before it."""
    open_ids = events.filter(id__gte=start, status__in=STILL_DUE).order_by("id")
    newest = events.order_by("-id").values_list("id", flat=True).first() or 0
    first = open_ids.values_list("id", flat=True).first()
    return max(start, (newest if first is None else first) - LATE_IDS, 1)


def _line(row: dict[str, Any]) -> str:
    key = row["partition_key"] or "-"
    return printable(
        f"{row['published_at']:%H:%M:%S}  {row['id']:>10}  {row['publisher_backend']}  "
        f"{row['event_type']}  {key}  {row['event_id']}"
    )
