"""Archive old events, then delete them from the outbox. No other code deletes old events."""

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
"""The columns of archived events that a replay changes, by id."""

Run = Callable[..., Any]
"""A function that calls another one with arguments, maybe in another thread."""


def _run_here(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def remove(using: str, ids: Sequence[int], archive: Archive | None, *, run: Run = _run_here) -> int:
    """Archive and delete the events that have a final status; return how many.

    The events are deleted in one short transaction. Events that another transaction has locked are
    skipped until the next call. An archive outside of the database stores the events first, while
    no row is locked. If an error is raised, nothing was deleted.

    Args:
        using: Alias of the database.
        ids: The ids of the events.
        archive: The archive, if there is one.
        run: Calls the archive.

    Raises:
        ArchiveError: The archive raised an error.
        Error: The database refused a statement.
    """
    if not ids:
        return 0
    return take_out(using, ids, archive, store_first(using, ids, archive, run=run))


def store_first(
    using: str, ids: Sequence[int], archive: Archive | None, *, run: Run = _run_here
) -> Stored | None:
    """Store events in an archive outside of the database, before the transaction of `take_out`.

    Args:
        using: Alias of the database.
        ids: The ids of the events.
        archive: The archive, if there is one.
        run: Calls the archive.

    Returns:
        The state of the events before they were stored; None without such an archive.

    Raises:
        ArchiveError: The archive raised an error.
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
    """Delete the events that have a final status; return how many. Raise as `remove` does.

    An archive in the database stores them in the same transaction. Other archives have stored them
    already: `stored` is their state at that time. Events that were replayed since then are kept.
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
    """Return the columns of events that a replay changes, by id."""
    columns = ("status", "scheduled_at", "published_at", "ended_at")
    rows = OutboxEvent.objects.using(using).filter(pk__in=ids).order_by("pk")
    return {pk: state for pk, *state in rows.values_list("pk", *columns)}


def _store(archive: Archive, leaving: Leaving) -> None:
    try:
        archive.store(leaving)
    except Exception as error:
        if archive.in_transaction and isinstance(error, Error):
            raise  # an error of the outbox's own database
        raise ArchiveError(f"{type(archive).__name__}: {error}") from error
