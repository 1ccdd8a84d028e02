"""An archive in the outbox's own database: the table of `OutboxArchivedEvent`."""

from __future__ import annotations

from django_broadcaster.store import copy_to_archive

from .base import Archive, Leaving


class TableArchive(Archive):
    """Moves events into the table of `OutboxArchivedEvent`, in the transaction that deletes them.

    An event is in the one table or in the other, whatever dies. Nothing purges this table: it has
    no index that deliveries would have to keep up, so it may grow; delete from it as you like.
    """

    in_transaction = True

    def store(self, leaving: Leaving) -> None:
        """Copy the events from table to table."""
        copy_to_archive(leaving.using, leaving.ids)
