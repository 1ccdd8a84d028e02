"""The only place where rows of the outbox move.

`events` holds what a person or a command does, in Django's ORM; `insert` and `insert_many` the ways
in, for rows as `new_rows` has them; `relay` what a relay does, in SQL; `purge` the way out, and
`archive` what is taken along; `selection` says which events, `moves` what can be done to them, and
`operations` has it done in the background; `json_columns` is what databases make of JSON.
"""

from .archive import StoredRow, copy_to_archive, read_stored
from .control import pause, paused_backends, resume
from .events import DatabaseNow, OutboxEventQuerySet, aware
from .insert import insert_event, insert_row
from .insert_many import insert_events, insert_rows
from .json_columns import growth, max_depth
from .moves import MOVES
from .new_rows import EventColumns, NewRow, identity_of
from .operations import (
    OperationQuerySet,
    Window,
    estimate_of,
    is_served,
    move_chunk,
    note_failure,
    span_of,
)
from .overview import EXACT, Overview, overviews
from .purge import (
    delete_events,
    find_dead_letters,
    find_delivered,
    lock_final,
    purge_entries,
)
from .relay import PendingRow, RelayRows
from .selection import EventSelection

__all__ = [
    "EXACT",
    "MOVES",
    "DatabaseNow",
    "EventColumns",
    "EventSelection",
    "NewRow",
    "OperationQuerySet",
    "OutboxEventQuerySet",
    "Overview",
    "PendingRow",
    "RelayRows",
    "StoredRow",
    "Window",
    "aware",
    "copy_to_archive",
    "delete_events",
    "estimate_of",
    "find_dead_letters",
    "find_delivered",
    "growth",
    "identity_of",
    "insert_event",
    "insert_events",
    "insert_row",
    "insert_rows",
    "is_served",
    "lock_final",
    "max_depth",
    "move_chunk",
    "note_failure",
    "overviews",
    "pause",
    "paused_backends",
    "purge_entries",
    "read_stored",
    "resume",
    "span_of",
]
