"""`manage.py outbox_replay`: deliver published, failed or cancelled events again."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError
from django.db import transaction

from django_broadcaster.inbox_replay import prepare_replay, skippable_handlers
from django_broadcaster.management.moving import MovingCommand
from django_broadcaster.management.selection import listed
from django_broadcaster.models.managers import OutboxEventQuerySet
from django_broadcaster.models.selection import EventSelection

ALL = "all"
"""The value of `--forget-inbox` that stands for all handlers."""


class Command(MovingCommand):
    """Deliver published, failed or cancelled events again."""

    help = (
        "Delivers published, failed or cancelled events again. Handlers that already processed an "
        "event do not run again, unless --forget-inbox names them."
    )
    examples = (
        "1291",
        '--type "invoice.*" --since 2026-01-31 --until 2026-02-01',
        "--key customer-7 --forget-inbox all --background --by Ada",
    )
    verb = "replay"

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the command's arguments."""
        super().add_arguments(parser)
        parser.add_argument(
            "--forget-inbox",
            action="append",
            default=[],
            metavar="HANDLER",
            help="run this handler again for events that it already processed; repeatable, or "
            f"`{ALL}` for every handler",
        )

    def prepare(self, selection: EventSelection, options: dict[str, Any]) -> None:
        """Report which handlers will not run again.

        Raises:
            CommandError: `--forget-inbox` names a handler that the events do not have.
        """
        self.skipped = 0
        self.handlers = skippable_handlers(selection)
        self.forget_inbox = tuple(dict.fromkeys(options["forget_inbox"]))
        if ALL in self.forget_inbox:
            self.forget_inbox = tuple(self.handlers)
        for name in self.forget_inbox:
            if name not in self.handlers:
                known = listed(self.handlers) or "none"
                raise CommandError(
                    f"--forget-inbox: no handler {name!r} runs for these events; handlers: {known}."
                )
        if remembered := [name for name in self.handlers if name not in self.forget_inbox]:
            self.stderr.write(
                "Handlers that already processed these events will NOT run again: "
                f"{', '.join(remembered)}. Pass --forget-inbox to run them again."
            )

    def move(self, events: OutboxEventQuerySet) -> int:
        """Replay some events; in the same transaction, forget that handlers processed them."""
        with transaction.atomic(using=events.db):
            skipped = prepare_replay(events, self.forget_inbox) if self.handlers else 0
            moved = super().move(events)
        self.skipped += skipped
        return moved

    def details(self) -> dict[str, Any]:
        """Return the number of events that run no handler, for JSON."""
        return {"skipped": self.skipped, "forget_inbox": self.forget_inbox}

    def report(self, changed: int) -> None:
        """Print what becomes of the events."""
        if not self.handlers:
            return
        self.stdout.write(
            f"{changed:,} queued for delivery; the inbox skips {self.skipped:,} of them, because "
            "all their handlers already processed them"
        )
