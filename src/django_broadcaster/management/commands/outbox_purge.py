"""`manage.py outbox_purge`: delete events that are delivered, given up or cancelled."""

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
    """Take events out of the outbox; those that have still to be delivered are left alone.

    With OUTBOX_ARCHIVE they are archived first, as the relay does it.
    """

    help = "Deletes events that were delivered, given up or cancelled, through OUTBOX_ARCHIVE."
    verb = "purge"
    archive: Archive | None

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command; raises CommandError, also for an archive that takes nothing."""
        self.archive = create_archive()
        super().handle(*args, **options)

    def move(self, events: OutboxEventQuerySet) -> int:
        """Archive and delete those of them that nobody has made due meanwhile."""
        ids = list(events.filter(status__in=FINAL).order_by("id").values_list("id", flat=True))
        try:
            return remove(events.db, ids, self.archive)
        except ArchiveError as error:
            raise CommandError(f"nothing more is deleted: {masked(str(error))}") from error
