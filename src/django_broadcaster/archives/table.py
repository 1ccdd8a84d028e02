"""An archive in the outbox's own database: the table of `OutboxArchivedEvent`."""

from __future__ import annotations

from django_broadcaster.store import copy_to_archive

from .base import Archive, Leaving


class TableArchive(Archive):
    """Moves events into the table of `OutboxArchivedEvent`, in the transaction that deletes them.

    Even after a crash, an event is in exactly one of the tables. The package does not purge the
    archive table. Its size does not slow down deliveries, and you may delete rows at any time.
    """

    in_transaction = True

    def store(self, leaving: Leaving) -> None:
        """Copy the events into the archive table."""
        copy_to_archive(leaving.using, leaving.ids)
