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
from django_broadcaster.models import OutboxAttempt, OutboxEvent
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

EVENT = ("id", "publisher_backend", "event_type", "partition_key", "event_id")
SHOWN = (*EVENT, "published_at")


ATTEMPT = ("row", "attempted_at", "number", "error")


class Command(OutboxCommand):
    """Print a line for each delivered event or failed attempt, until interrupted."""

    help = (
        "Follows deliveries: prints a line for each delivered event, without its payload. Needs an "
        "OUTBOX_RETENTION above 0. Of older events, the newest 10,000 that wait or failed are "
        "followed. With --failures, prints a line for each failed attempt, with its error."
    )
    examples = (
        "",
        '--backend default --type "order.*"',
        "--failures --count 10 --json",
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
            "--failures", action="store_true", help="follow failed attempts instead of deliveries"
        )
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
        lines = _Lines(self.width)
        try:
            for number, row in enumerate(_follow(options), start=1):
                line = as_json(row, on_one_line=True) if options["json"] else lines.line(row)
                self.stdout.write(line)
                self.stdout.flush()
                if number == options["count"]:
                    break
        except KeyboardInterrupt:
            self.stdout.write("")
        except BrokenPipeError:  # the reader, such as `head`, has exited
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _follow(options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each delivery or failure from now on, within the limits of the command's help."""
    everything = OutboxEvent.objects.using(database(options["database"]))
    wanted = everything.matching(EventSelection(**conditions_of(options)))
    window: _Failures | _Window = (
        _Failures(wanted) if options["failures"] else _Window(everything, wanted)
    )
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


class _Failures:
    """The failed attempts, which have ids of their own."""

    def __init__(self, wanted: OutboxEventQuerySet) -> None:
        self._wanted = wanted
        self._attempts = OutboxAttempt.objects.using(wanted.db).order_by("id")
        self._newest = self._attempts.values_list("id", flat=True).last() or 0
        self._seen: set[int] = set()
        self._new_ids()

    def poll(self) -> list[dict[str, Any]]:
        """Return the attempts that failed since the last poll, in their order."""
        attempts = list(self._attempts.filter(id__in=self._new_ids()).values(*ATTEMPT))
        events = self._wanted.filter(id__in={each["row"] for each in attempts}).values(*EVENT)
        known = {event["id"]: event for event in events}
        return [
            {**known[each["row"]], **{name: each[name] for name in ATTEMPT[1:]}}
            for each in attempts
            if each["row"] in known
        ]

    def _new_ids(self) -> list[int]:
        """Return the ids that were not there before; a lower id may commit late."""
        recent = self._attempts.filter(id__gt=self._newest - LATE_IDS)
        found = list(recent.values_list("id", flat=True)[: 2 * LATE_IDS])
        new = [each for each in found if each not in self._seen]
        self._newest = found[-1] if found else self._newest
        self._seen = set(found)
        return new


class _Lines:
    """Lines whose columns are aligned as far as their widths are known."""

    def __init__(self, width: int | None) -> None:
        self._width = width
        self._widths = [8, 7, 7, 14, 8]

    def line(self, row: dict[str, Any]) -> str:
        """Return a delivery or a failed attempt as a line that fits the terminal."""
        failed = "error" in row
        moment = row["attempted_at" if failed else "published_at"]
        values = (row["publisher_backend"], row["event_type"], row["partition_key"] or "-")
        cells = [f"{moment:%H:%M:%S}", str(row["id"]), *map(printable, values)]
        self._widths = [
            max(width, len(cell)) for width, cell in zip(self._widths, cells, strict=True)
        ]
        padded = [cell.ljust(width) for cell, width in zip(cells, self._widths, strict=True)]
        padded[1] = cells[1].rjust(self._widths[1])
        start = "  ".join(padded).rstrip()
        end = (
            f"#{row['number']} {printable(row['error'])}" if failed else printable(row["event_id"])
        )
        whole = "  ".join([*padded, end])
        if self._width is None or len(whole) <= self._width:
            return whole
        # An id is of no use in part; the beginning of an error is.
        shown = whole if failed else start
        return shown if len(shown) <= self._width else f"{shown[: self._width - 1]}…"
