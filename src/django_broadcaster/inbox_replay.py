"""The inbox at a replay: it skips handlers that processed an event, or forgets that they did.

The notes of a chunk are deleted in the transaction that replays its events, if the inbox is in the
database of the outbox. If it is elsewhere, they are deleted in a transaction just before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from django.db import router, transaction

from .backends.handler import backends
from .inbox_notes import note_identity
from .models import InboxEvent
from .models.managers import OutboxEventQuerySet
from .models.selection import EventSelection
from .registry import event_registry
from .states import OutboxEventStatus, sources_of

CHUNK = 500
"""Notes that one statement names."""


def skippable_handlers(selection: EventSelection) -> list[str]:
    """Return the names of the handlers that a replay of a selection may skip."""
    aliases = _aliases()
    if selection.backend:
        aliases = [alias for alias in aliases if alias == selection.backend]
    if not aliases:
        return []
    event_type = selection.event_type
    is_exact = event_type and not event_type.endswith("*")
    return [each.name for each in event_registry if not is_exact or each.matches_type(event_type)]


def prepare_replay(events: OutboxEventQuerySet, forget: Sequence[str]) -> int:
    """Forget that handlers processed events; return how many events run no handler again.

    Call it in the transaction that replays the events.

    Args:
        events: The events to replay; those in another state are ignored.
        forget: The names of the handlers that run again.
    """
    rows = events.filter(status__in=sources_of(OutboxEventStatus.SCHEDULED)).values_list(
        "id", "event_type", "source", "event_id", "publisher_config"
    )
    notes = {
        row_id: {
            handler.name: note_identity(handler.name, source, event_id)
            for handler in event_registry.handlers_for(event_type, config.get("consumer", ""))
        }
        for row_id, event_type, source, event_id, config in rows.filter(
            publisher_backend__in=_aliases()
        )
    }
    inbox = InboxEvent.objects.using(router.db_for_write(InboxEvent))
    if forget:
        forgotten = [
            note_identity(name, source, event_id)
            for _, _, source, event_id, _ in rows
            for name in forget
        ]
        with transaction.atomic(using=inbox.db):
            for some in _chunks(forgotten):
                inbox.filter(identity__in=some).delete()
    known: set[str] = set()
    for some in _chunks([each for own in notes.values() for each in own.values()]):
        known.update(inbox.filter(identity__in=some).values_list("identity", flat=True))
    return sum(1 for own in notes.values() if own and known.issuperset(own.values()))


def _aliases() -> list[str]:
    """Return the aliases of the backends that run handlers."""
    return [alias for alias in backends.aliases() if backends.runs_handlers(alias)]


def _chunks(identities: Iterable[str]) -> Iterator[list[str]]:
    every = list(dict.fromkeys(identities))
    for start in range(0, len(every), CHUNK):
        yield every[start : start + CHUNK]
