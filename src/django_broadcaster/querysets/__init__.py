"""The only place where rows of the outbox move.

`events` holds what a person or a command does, in Django's ORM; `insert` the way in; `relay` what a
relay does, in SQL; `purge` the way out; `json_columns` what databases make of JSON.
"""

from .control import pause, paused_backends, resume
from .events import DatabaseNow, OutboxEventQuerySet, aware
from .insert import identity_of, insert_event
from .json_columns import growth, max_depth
from .overview import EXACT, Overview, overviews
from .purge import purge_entries, purge_published
from .relay import PendingRow, RelayRows

__all__ = [
    "EXACT",
    "DatabaseNow",
    "OutboxEventQuerySet",
    "Overview",
    "PendingRow",
    "RelayRows",
    "aware",
    "growth",
    "identity_of",
    "insert_event",
    "max_depth",
    "overviews",
    "pause",
    "paused_backends",
    "purge_entries",
    "purge_published",
    "resume",
]
