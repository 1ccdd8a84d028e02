"""The only place where rows of the outbox move.

`events` holds what a person or a command does, in Django's ORM; `insert` and `insert_many` the ways
in, for rows as `new_rows` has them; `relay` what a relay does, in the SQL of `relay_sql`; `purge`
the way out, and `archive` what is taken along; `segments` and `partitioning` are time partitions;
`selection` says which events, by the comparisons of `exact`, `moves` what can be done to them, and
`operations` has it done in the background, in `chunks`, of which there are `previews`;
`json_columns` is what databases make of JSON, `charsets` which text they can hold, and `clock` what
time it is for them. `overview`,
`estimates`, `samples` and `trouble` say how backends are and were doing, and what is stuck.
"""

from .aliases import with_leftovers
from .archive import StoredRow, copy_to_archive, read_stored
from .charsets import (
    client_charset,
    first_unstorable,
    may_lack_characters,
    narrow_columns,
    postgres_encoding,
    storable,
)
from .chunks import Window
from .clock import DatabaseClock, DatabaseEpoch
from .control import pause, paused_backends, resume
from .estimates import Count, count_or_estimate
from .events import DatabaseNow, OutboxEventQuerySet, aware
from .exact import equals
from .insert import insert_event, insert_row
from .insert_many import insert_events, insert_rows, text_array
from .json_columns import as_stored, growth, max_depth
from .missing import MIGRATE, lacks_migration
from .moves import MOVES
from .new_rows import EventColumns, NewRow, identity_of
from .operations import OperationQuerySet, is_served, move_chunk, note_failure
from .overview import EXACT, Overview, overviews
from .packets import (
    BYTES_OF_A_CHARACTER,
    max_statement,
    may_be_too_long,
    statement_bytes,
)
from .partitioning import partition_outbox
from .previews import INDEXED, estimate_of, few_of, first_of, span_of
from .purge import (
    delete_events,
    find_dead_letters,
    find_delivered,
    lock_final,
    purge_entries,
)
from .relay import Fetched, PendingRow, RelayRows
from .relay_sql import TIMELINE
from .samples import Figures, add_to_minute, minute_of
from .segments import (
    SEQUENCE,
    CannotPartition,
    drop_oldest,
    is_partitioned,
    keep_ahead,
    segments_of,
)
from .selection import EventSelection
from .sizes import portions, size_of
from .trouble import BlockedKey, SameError, blocked_keys, same_errors

__all__ = [
    "BYTES_OF_A_CHARACTER",
    "EXACT",
    "INDEXED",
    "MIGRATE",
    "MOVES",
    "SEQUENCE",
    "TIMELINE",
    "BlockedKey",
    "CannotPartition",
    "Count",
    "DatabaseClock",
    "DatabaseEpoch",
    "DatabaseNow",
    "EventColumns",
    "EventSelection",
    "Fetched",
    "Figures",
    "NewRow",
    "OperationQuerySet",
    "OutboxEventQuerySet",
    "Overview",
    "PendingRow",
    "RelayRows",
    "SameError",
    "StoredRow",
    "Window",
    "add_to_minute",
    "as_stored",
    "aware",
    "blocked_keys",
    "client_charset",
    "copy_to_archive",
    "count_or_estimate",
    "delete_events",
    "drop_oldest",
    "equals",
    "estimate_of",
    "few_of",
    "find_dead_letters",
    "find_delivered",
    "first_of",
    "first_unstorable",
    "growth",
    "identity_of",
    "insert_event",
    "insert_events",
    "insert_row",
    "insert_rows",
    "is_partitioned",
    "is_served",
    "keep_ahead",
    "lacks_migration",
    "lock_final",
    "max_depth",
    "max_statement",
    "may_be_too_long",
    "may_lack_characters",
    "minute_of",
    "move_chunk",
    "narrow_columns",
    "note_failure",
    "overviews",
    "partition_outbox",
    "pause",
    "paused_backends",
    "portions",
    "postgres_encoding",
    "purge_entries",
    "read_stored",
    "resume",
    "same_errors",
    "segments_of",
    "size_of",
    "span_of",
    "statement_bytes",
    "storable",
    "text_array",
    "with_leftovers",
]
