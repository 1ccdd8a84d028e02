"""`manage.py outbox_tail`: follow events as they are delivered."""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django_broadcaster.management.base import OutboxCommand
from django_broadcaster.management.output import as_json, printable
from django_broadcaster.management.selection import (
    HIGHEST,
    add_database,
    check_backend,
    conditions_of,
    database,
    whole,
)
from django_broadcaster.models import OutboxEvent
from django_broadcaster.models.managers import OutboxEventQuerySet
from django_broadcaster.models.selection import EventSelection
from django_broadcaster.states import OutboxEventStatus
from django_broadcaster.store import INDEXED

LOOK_SECONDS = 0.5
LATE_IDS = 1000
"""How far behind the first pending event it looks: a lower id may commit late."""

MOST_WATCHED = 10_000
"""Older events that are watched, each by its id: the last ones that were left behind."""

MOST_SHOWN = 50_000
"""Delivered events behind one that is pending that are looked at each time."""

S = OutboxEventStatus
LEFT_BEHIND = (S.FAILED, S.SCHEDULED, S.BLOCKED, S.RETRY, S.PENDING)
"""The states in which events that were published later may overtake one; the likeliest last."""

SHOWN = ("id", "published_at", "publisher_backend", "event_type", "partition_key", "event_id")


class Command(OutboxCommand):
    """Print a line for each event that is delivered, until interrupted."""

    help = (
        "Follows events as they are delivered, without their payloads. Sees none where "
        "OUTBOX_RETENTION is 0. Of events that later ones have overtaken it follows the last "
        "10,000 that wait or were given up, and none that was delivered or cancelled before."
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
    """Yield each event that is delivered from now on, as far as the command's help says."""
    everything = OutboxEvent.objects.using(database(options["database"]))
    window = _Window(everything, everything.matching(EventSelection(**conditions_of(options))))
    while True:
        yield from window.look()
        time.sleep(LOOK_SECONDS)


class _Window:
    """The ids from which on everything is looked at, and the events below that are watched.

    An event is known by when it was delivered, so that one is shown again that a replay delivers.
    """

    def __init__(self, everything: OutboxEventQuerySet, wanted: OutboxEventQuerySet) -> None:
        self._everything = everything
        self._wanted = wanted
        self._start = _first_pending(everything, 0)
        self._shown: dict[int, datetime | None] = {}
        self._watched: dict[int, datetime | None] = {}
        for status in LEFT_BEHIND:
            left = wanted.filter(status=status, id__lt=self._start).order_by(*INDEXED[status])
            self._watch(left)
        delivered = self._from_start().filter(status=S.PUBLISHED)
        self._shown.update(delivered.values_list("id", "published_at"))

    def look(self) -> list[dict[str, Any]]:
        """Return what was delivered since the last look, in that order, and go on."""
        # Before it looks: what is delivered meanwhile is then not below the next start.
        following = max(_first_pending(self._everything, self._start), self._least_start())
        if following > self._start:
            passed = self._from_start().filter(id__lt=following, status__in=LEFT_BEHIND)
            self._watch(passed.order_by("id"))
        rows = self._published(self._from_start())
        if self._watched:
            rows |= self._published(self._wanted.filter(id__in=self._watched))
        known = {**self._watched, **self._shown}
        new = [row for row_id, row in rows.items() if row["published_at"] != known.get(row_id)]
        self._watched |= {
            row["id"]: row["published_at"] for row in new if row["id"] in self._watched
        }
        self._start = following
        self._shown = {pk: row["published_at"] for pk, row in rows.items() if pk >= following}
        return sorted(new, key=lambda row: (row["published_at"], row["id"]))

    def _from_start(self) -> OutboxEventQuerySet:
        return self._wanted.filter(id__gte=self._start)

    def _least_start(self) -> int:
        """Return from where on to look although earlier events are pending, if too many are not.

        So it is where a backend is paused, and others go on.
        """
        if len(self._shown) <= MOST_SHOWN:
            return 0
        return sorted(self._shown)[len(self._shown) // 2]

    def _watch(self, events: OutboxEventQuerySet) -> None:
        """Watch some more; those that were left behind the longest make room."""
        for row_id in events.values_list("id", flat=True)[:MOST_WATCHED]:
            self._watched.setdefault(row_id, self._shown.get(row_id))
        for row_id in list(self._watched)[:-MOST_WATCHED]:
            del self._watched[row_id]

    def _published(self, events: OutboxEventQuerySet) -> dict[int, dict[str, Any]]:
        return {row["id"]: row for row in events.filter(status=S.PUBLISHED).values(*SHOWN)}


def _first_pending(events: OutboxEventQuerySet, start: int) -> int:
    """Return the id from which on events may be pending, or a little before it."""
    pending = events.filter(id__gte=start, status=S.PENDING).order_by("id")
    newest = events.order_by("-id").values_list("id", flat=True).first() or 0
    first = pending.values_list("id", flat=True).first()
    return max(start, (newest if first is None else first) - LATE_IDS, 1)


def _line(row: dict[str, Any]) -> str:
    key = row["partition_key"] or "-"
    return printable(
        f"{row['published_at']:%H:%M:%S}  {row['id']:>10}  {row['publisher_backend']}  "
        f"{row['event_type']}  {key}  {row['event_id']}"
    )
