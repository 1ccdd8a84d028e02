"""The only place where rows of the outbox move.

`events` holds what a person or a command does, in Django's ORM; `insert` and `insert_many` the ways
in, for rows as `new_rows` has them; `relay` what a relay does, in SQL; `purge` the way out, and
`archive` what is taken along; `json_columns` what databases make of JSON.
"""

from .archive import StoredRow, copy_to_archive, read_stored
from .control import pause, paused_backends, resume
from .events import DatabaseNow, OutboxEventQuerySet, aware
from .insert import insert_event, insert_row
from .insert_many import insert_events, insert_rows
from .json_columns import growth, max_depth
from .new_rows import EventColumns, NewRow, identity_of
from .overview import EXACT, Overview, overviews
from .purge import (
    delete_events,
    find_dead_letters,
    find_delivered,
    lock_final,
    purge_entries,
)
from .relay import PendingRow, RelayRows

__all__ = [
    "EXACT",
    "DatabaseNow",
    "EventColumns",
    "NewRow",
    "OutboxEventQuerySet",
    "Overview",
    "PendingRow",
    "RelayRows",
    "StoredRow",
    "aware",
    "copy_to_archive",
    "delete_events",
    "find_dead_letters",
    "find_delivered",
    "growth",
    "identity_of",
    "insert_event",
    "insert_events",
    "insert_row",
    "insert_rows",
    "lock_final",
    "max_depth",
    "overviews",
    "pause",
    "paused_backends",
    "purge_entries",
    "read_stored",
    "resume",
]
