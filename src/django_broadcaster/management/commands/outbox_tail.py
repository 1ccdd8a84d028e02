"""`manage.py outbox_tail`: follow deliveries."""

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

POLL_SECONDS = 0.5
LATE_IDS = 1000
"""How far below the first pending event each poll begins: a lower id may commit late."""

MOST_WATCHED = 10_000
"""The limit for older undelivered events that are watched by id."""

MOST_SHOWN = 50_000
"""The limit for delivered events after a pending one that each poll reads."""

S = OutboxEventStatus
LEFT_BEHIND = (S.FAILED, S.SCHEDULED, S.BLOCKED, S.RETRY, S.PENDING)
"""The statuses in which later events may overtake an event; the most likely last."""

SHOWN = ("id", "published_at", "publisher_backend", "event_type", "partition_key", "event_id")


class Command(OutboxCommand):
    """Print a line for each delivered event, until interrupted."""

    help = (
        "Follows deliveries: prints a line for each delivered event, without its payload. Needs an "
        "OUTBOX_RETENTION above 0. Of older events, the newest 10,000 that wait or failed are "
        "followed."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the command's arguments."""
        parser.add_argument("--backend", metavar="ALIAS", help="follow only events to this backend")
        parser.add_argument(
            "--type",
            dest="event_type",
            help="follow only events of this type; `order.*` is a pattern",
        )
        parser.add_argument("--key", help="follow only events with this partition key")
        parser.add_argument(
            "--count",
            type=whole(1, HIGHEST),
            help="exit after N events (default: never)",
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object per line")
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
        except BrokenPipeError:  # the reader, such as `head`, has exited
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _follow(options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each event delivered from now on, within the limits of the command's help."""
    everything = OutboxEvent.objects.using(database(options["database"]))
    window = _Window(everything, everything.matching(EventSelection(**conditions_of(options))))
    while True:
        yield from window.poll()
        time.sleep(POLL_SECONDS)


class _Window:
    """The id from which on all events are read, and the older events that are watched by id.

    Events are compared by their time of delivery, so a replayed event is shown again.
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

    def poll(self) -> list[dict[str, Any]]:
        """Return the events delivered since the last poll, in the order of delivery."""
        # Found before the query, so that an event delivered meanwhile is not below the next start.
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
        """Return a minimum for the next start, despite pending events below it.

        While one backend is paused, the others deliver more and more events after its first one.
        """
        if len(self._shown) <= MOST_SHOWN:
            return 0
        return sorted(self._shown)[len(self._shown) // 2]

    def _watch(self, events: OutboxEventQuerySet) -> None:
        """Watch more events by id; drop the oldest above the limit."""
        for row_id in events.values_list("id", flat=True)[:MOST_WATCHED]:
            self._watched.setdefault(row_id, self._shown.get(row_id))
        for row_id in list(self._watched)[:-MOST_WATCHED]:
            del self._watched[row_id]

    def _published(self, events: OutboxEventQuerySet) -> dict[int, dict[str, Any]]:
        return {row["id"]: row for row in events.filter(status=S.PUBLISHED).values(*SHOWN)}


def _first_pending(events: OutboxEventQuerySet, start: int) -> int:
    """Return an id shortly before the first pending event."""
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
