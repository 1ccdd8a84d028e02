"""The only way out of the outbox for events that were kept: into the archive, then deleted."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import Error, transaction

from django_broadcaster.exceptions import ArchiveError
from django_broadcaster.models import OutboxEvent
from django_broadcaster.querysets import delete_events, lock_final

from .base import Archive, Leaving


def remove(using: str, ids: Sequence[int], archive: Archive | None) -> int:
    """Delete those of these events that nobody has to deliver; return how many.

    One short transaction, that waits for nobody: events that somebody else has locked are left for
    the next time. An archive outside of the database has them first, while nothing is locked.
    Raises ArchiveError, and the database's errors; then nothing was deleted.
    """
    if not ids:
        return 0
    store_first(using, ids, archive)
    return take_out(using, ids, archive)


def store_first(using: str, ids: Sequence[int], archive: Archive | None) -> None:
    """Let an archive outside of the database have events, before the transaction of `take_out`.

    Raises ArchiveError.
    """
    if ids and archive is not None and not archive.in_transaction:
        _store(archive, Leaving(using, ids))


def take_out(using: str, ids: Sequence[int], archive: Archive | None) -> int:
    """Delete those of these events that nobody has to deliver; return how many.

    An archive in the database has them in the same transaction; any other has them already.
    Raises as `remove` does.
    """
    events = OutboxEvent.objects.using(using)
    with transaction.atomic(using=using):
        final = lock_final(events.all(), ids)
        if archive is not None and archive.in_transaction and final:
            _store(archive, Leaving(using, final))
        return delete_events(events.all(), final)


def _store(archive: Archive, leaving: Leaving) -> None:
    try:
        archive.store(leaving)
    except Exception as error:
        if archive.in_transaction and isinstance(error, Error):
            raise  # it is the outbox's own database that can't
        raise ArchiveError(f"{type(archive).__name__}: {error}") from error
