"""`manage.py outbox_purge`: delete published, failed or cancelled events."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError

from django_broadcaster.archives import Archive, create_archive, remove
from django_broadcaster.exceptions import ArchiveError
from django_broadcaster.management.moving import MovingCommand
from django_broadcaster.models.managers import OutboxEventQuerySet
from django_broadcaster.redaction import masked
from django_broadcaster.states import FINAL


class Command(MovingCommand):
    """Delete published, failed or cancelled events; archive them first if OUTBOX_ARCHIVE is set."""

    help = (
        "Deletes published, failed or cancelled events. If OUTBOX_ARCHIVE is set, archives them "
        "first."
    )
    examples = (
        "--status published --until 2026-01-31 --dry-run",
        "--status cancelled --no-input",
        "--all --backend audit --background",
    )
    verb = "purge"
    archive: Archive | None

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command; raise CommandError if an argument is invalid or the archive fails."""
        self.archive = create_archive()
        super().handle(*args, **options)

    def move(self, events: OutboxEventQuerySet) -> int:
        """Archive and delete the events, except those that became due meanwhile."""
        ids = list(events.filter(status__in=FINAL).order_by("id").values_list("id", flat=True))
        try:
            return remove(events.db, ids, self.archive)
        except ArchiveError as error:
            raise CommandError(
                f"Could not archive events: {masked(str(error))}; stopped deleting."
            ) from error
