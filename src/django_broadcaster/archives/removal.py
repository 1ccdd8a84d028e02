"""The only way out of the outbox for events that were kept: into the archive, then deleted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django.db import Error, transaction

from django_broadcaster.conf import conf
from django_broadcaster.exceptions import ArchiveError
from django_broadcaster.models import OutboxEvent
from django_broadcaster.store import delete_events, lock_final, portions

from .base import Archive, Leaving

Stored = Mapping[int, Sequence[Any]]
"""The state of events as an archive has them, by id."""

Run = Callable[..., Any]
"""Calls a function with arguments, maybe in another thread, and returns what it returns."""


def _run_here(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def remove(using: str, ids: Sequence[int], archive: Archive | None, *, run: Run = _run_here) -> int:
    """Delete those of these events that nobody has to deliver; return how many.

    One short transaction, that waits for nobody: events that somebody else has locked are left for
    the next time. An archive outside of the database has them first, while nothing is locked.
    Raises ArchiveError, and the database's errors; then nothing was deleted.
    """
    if not ids:
        return 0
    return take_out(using, ids, archive, store_first(using, ids, archive, run=run))


def store_first(
    using: str, ids: Sequence[int], archive: Archive | None, *, run: Run = _run_here
) -> Stored | None:
    """Let an archive outside of the database have events, before the transaction of `take_out`.

    `run` calls the archive. Returns how they were then, None where there is no such archive. Raises
    ArchiveError.
    """
    if not ids or archive is None or archive.in_transaction:
        return None
    stored = _states(using, ids)
    for portion in portions(using, OutboxEvent._meta.db_table, ids, conf.BATCH_BYTES):
        run(_store, archive, Leaving(using, portion))
    return stored


def take_out(
    using: str, ids: Sequence[int], archive: Archive | None, stored: Stored | None = None
) -> int:
    """Delete those of these events that nobody has to deliver; return how many.

    An archive in the database has them in the same transaction; any other has them already, as
    they were in `stored`. To write an archive may take long: what was replayed meanwhile stays.
    Raises as `remove` does.
    """
    events = OutboxEvent.objects.using(using)
    with transaction.atomic(using=using):
        final = lock_final(events.all(), ids)
        if stored is not None:
            final = [pk for pk, state in _states(using, final).items() if state == stored.get(pk)]
        if archive is not None and archive.in_transaction and final:
            _store(archive, Leaving(using, final))
        return delete_events(events.all(), final)


def _states(using: str, ids: Sequence[int]) -> Stored:
    """Return what a replay changes of each of these events, whatever has become of it since."""
    columns = ("status", "scheduled_at", "published_at", "ended_at")
    rows = OutboxEvent.objects.using(using).filter(pk__in=ids).order_by("pk")
    return {pk: state for pk, *state in rows.values_list("pk", *columns)}


def _store(archive: Archive, leaving: Leaving) -> None:
    try:
        archive.store(leaving)
    except Exception as error:
        if archive.in_transaction and isinstance(error, Error):
            raise  # it is the outbox's own database that can't
        raise ArchiveError(f"{type(archive).__name__}: {error}") from error
