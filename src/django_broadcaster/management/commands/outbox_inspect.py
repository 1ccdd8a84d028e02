"""`manage.py outbox_inspect ID`: show one event."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from typing import Any

from django.core.management.base import CommandError

from django_broadcaster.amounts import duration
from django_broadcaster.event_history import history_of
from django_broadcaster.management.base import OutboxCommand
from django_broadcaster.management.output import Row, as_json
from django_broadcaster.management.selection import HIGHEST, add_database, database
from django_broadcaster.models import OutboxAttempt, OutboxEvent
from django_broadcaster.models.exact_text import equals
from django_broadcaster.presentation import presented

SHOWN = (
    *("id", "event_id", "source", "event_type", "subject", "partition_key", "partition"),
    *("publisher_backend", "status", "created_at", "scheduled_at", "published_at"),
    "ended_at",
    *("retry_count", "max_retries", "crash_count", "last_error"),
)

SEVERAL = 20
"""The limit for listed events with one id; each backend has a row of its own."""


class Command(OutboxCommand):
    """Show an event, its failed attempts, and its message."""

    help = "Shows an event of the outbox, its failed attempts, and with --payload its message."
    examples = (
        "1291",
        "1291 --payload",
        "1f6b1a3c-6f5e-4d55-9a3c-0d8f8f2f4c11 --json",
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the command's arguments."""
        parser.add_argument(
            "id",
            metavar="ID",
            help="id in the outbox, or else id of the CloudEvent (which scans the whole table)",
        )
        parser.add_argument(
            "--payload",
            action="store_true",
            help="also show the payload, which may be confidential",
        )
        parser.add_argument("--json", action="store_true", help="print JSON")
        add_database(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command; raise CommandError for an unknown id."""
        using = database(options["database"])
        event = _found(using, options["id"])
        attempts = OutboxAttempt.objects.using(using).filter(row=event.pk).order_by("id")
        fields = ("number", "attempted_at", "relay", "error")
        found: dict[str, Any] = {
            "event": {name: getattr(event, name) for name in SHOWN},
            "history": [
                {
                    "at": step.at,
                    "after_seconds": gap,
                    "step": step.what,
                    "by": step.who,
                    "waits_for": step.waits_for,
                    "operation": step.operation,
                }
                for step, gap in history_of(event)
            ],
            "failed_attempts": list(attempts.values(*fields)),
        }
        if options["payload"]:
            shown = presented(event)
            found["message"] = shown if isinstance(shown, str) else json.loads(shown.to_json())
        self.stdout.write(as_json(found) if options["json"] else _text(found, self.table))


def _found(using: str, wanted: str) -> OutboxEvent:
    """Return the event with either kind of id; raise CommandError unless there is exactly one."""
    events = OutboxEvent.objects.using(using)
    if _is_row(wanted) and (event := events.filter(pk=int(wanted)).first()):
        return event
    # Consumers and logs of the broker have only this id. There is no index for it.
    same = list(events.filter(equals("event_id", wanted)).order_by("pk")[: SEVERAL + 1])
    if not same:
        raise CommandError(f"The outbox has no event {wanted}; it may have been purged.")
    if len(same) > 1:
        rows = [f"{each.pk} to {each.publisher_backend!r}" for each in same[:SEVERAL]]
        more = ", and more" if len(same) > SEVERAL else ""
        raise CommandError(f"Several events have the id {wanted}: {', '.join(rows)}{more}.")
    return same[0]


def _is_row(wanted: str) -> bool:
    """Return True for a possible id in the outbox. Python refuses numbers of 5,000 digits."""
    return wanted.isdecimal() and len(wanted) <= len(str(HIGHEST)) and int(wanted) <= HIGHEST


def _text(found: dict[str, Any], table: Callable[[Sequence[Row]], str]) -> str:
    event = [{"field": name, "value": value} for name, value in found["event"].items()]
    parts = [table(event), "", "history", table([_step(row) for row in found["history"]])]
    parts += ["", "failed attempts", table(found["failed_attempts"])]
    if "message" in found:
        parts += ["", "message", as_json(found["message"])]
    return "\n".join(parts)


def _step(row: dict[str, Any]) -> Row:
    """Return a step of the history for a table: its text has the ids that it links to."""
    gap = row["after_seconds"]
    after = "" if gap is None else f"+{duration(gap)}"
    return {"at": row["at"], "after": after, "step": row["step"], "by": row["by"]}
