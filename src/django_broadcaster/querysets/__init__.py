"""The only place where rows of the outbox move.

`events` holds what a person or a command does, in Django's ORM; `insert` and `insert_many` the ways
in, for rows as `new_rows` has them; `relay` what a relay does, in SQL; `purge` the way out;
`json_columns` what databases make of JSON.
"""

from .control import pause, paused_backends, resume
from .events import DatabaseNow, OutboxEventQuerySet, aware
from .insert import insert_event, insert_row
from .insert_many import insert_events, insert_rows
from .json_columns import growth, max_depth
from .new_rows import EventColumns, NewRow, identity_of
from .overview import EXACT, Overview, overviews
from .purge import purge_entries, purge_published
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
    "aware",
    "growth",
    "identity_of",
    "insert_event",
    "insert_events",
    "insert_row",
    "insert_rows",
    "max_depth",
    "overviews",
    "pause",
    "paused_backends",
    "purge_entries",
    "purge_published",
    "resume",
]
