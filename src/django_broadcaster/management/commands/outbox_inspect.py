"""`manage.py outbox_inspect ID`: everything that is known of one event."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from django_broadcaster.management.base import OutboxCommand
from django_broadcaster.management.output import as_json, as_table
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
"""Events of one id that are listed; one to several backends has a row for each."""


class Command(OutboxCommand):
    """Show an event, its failed attempts, and the message that is sent for it."""

    help = "Shows an event of the outbox, its failed attempts, and the event as it is sent."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the command's arguments."""
        parser.add_argument(
            "id",
            metavar="ID",
            help="id in the outbox; or, where that has none, of the CloudEvent (reads all events)",
        )
        parser.add_argument(
            "--payload", action="store_true", help="show the payload too, which may be confidential"
        )
        parser.add_argument("--json", action="store_true", help="print JSON")
        add_database(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command; raises CommandError for an id that there is not."""
        using = database(options["database"])
        event = _found(using, options["id"])
        attempts = OutboxAttempt.objects.using(using).filter(row=event.pk).order_by("id")
        fields = ("number", "attempted_at", "relay", "error")
        found: dict[str, Any] = {
            "event": {name: getattr(event, name) for name in SHOWN},
            "failed_attempts": list(attempts.values(*fields)),
        }
        if options["payload"]:
            shown = presented(event)
            found["message"] = shown if isinstance(shown, str) else json.loads(shown.to_json())
        self.stdout.write(as_json(found) if options["json"] else _text(found))


def _found(using: str, wanted: str) -> OutboxEvent:
    """Return the event of an id, of whichever kind; raises CommandError unless it is one."""
    events = OutboxEvent.objects.using(using)
    if _is_row(wanted) and (event := events.filter(pk=int(wanted)).first()):
        return event
    # A consumer, and a log of the broker's, know no other id; no index has it.
    same = list(events.filter(equals("event_id", wanted)).order_by("pk")[: SEVERAL + 1])
    if not same:
        raise CommandError(f"the outbox has no event {wanted}; it may have been purged")
    if len(same) > 1:
        rows = [f"{each.pk} to {each.publisher_backend!r}" for each in same[:SEVERAL]]
        more = ", and more" if len(same) > SEVERAL else ""
        raise CommandError(f"event {wanted} is there several times: {', '.join(rows)}{more}")
    return same[0]


def _is_row(wanted: str) -> bool:
    """Tell whether this may be an id in the outbox. Python reads no number of 5,000 digits."""
    return wanted.isdecimal() and len(wanted) <= len(str(HIGHEST)) and int(wanted) <= HIGHEST


def _text(found: dict[str, Any]) -> str:
    event = [{"field": name, "value": value} for name, value in found["event"].items()]
    parts = [as_table(event), "", "failed attempts", as_table(found["failed_attempts"])]
    if "message" in found:
        parts += ["", "message", as_json(found["message"])]
    return "\n".join(parts)
