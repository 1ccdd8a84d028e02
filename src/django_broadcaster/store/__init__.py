"""The only place where rows of the outbox change status, in Django's ORM or in plain SQL.

- Into the table: `insert` and `insert_many`, for rows as `new_rows` describes them;
  `receiving` adds the figures of a receiver.
- Delivery: `relay` joins `fetch`, `pulse`, `settle` and `promote`, which share the SQL of
  `relay_sql`, `backend_sql` and `bounded_sql`.
- Out of the table: `purge` deletes old rows, `archive` copies them first.
- Moves by an operator: `moves` lists them, `operations` runs them in the background in `chunks`,
  `previews` estimates them, `results` counts what came of them, and `pausing` pauses a backend.
- Time partitions: `time_partitioning` creates them, `time_partitions` maintains them.
- Queries: `overview`, `receivers`, `slots`, `waiting_keys`, `estimates`, `samples`,
  `stuck` and `backends_in_use`.
- Databases: `clock`, `charsets`, `json_columns`, `packets`, `sizes`, `missing_migration`, `sql`.

The managers of the models, and the selection of events, are in `models`.
"""

from .archive import StoredRow, copy_to_archive, read_stored
from .backends_in_use import with_leftovers
from .charsets import (
    client_charset,
    first_unstorable,
    may_lack_characters,
    narrow_columns,
    postgres_encoding,
    storable,
)
from .chunks import Window
from .clock import DatabaseClock, DatabaseEpoch, django_clock
from .estimates import Count, count_or_estimate
from .fetch import Fetched, Head, PendingRow
from .insert import insert_event, insert_row, instance_of
from .insert_many import insert_new, insert_rows, text_array
from .json_columns import as_stored, growth, max_depth
from .judgement import (
    Endpoints,
    Facts,
    Judgement,
    Level,
    State,
    failed_of,
    judge,
    judgements,
)
from .missing_migration import MIGRATE, lacks_migration
from .moves import MOVES
from .new_rows import EventColumns, NewRow, identity_of
from .operations import is_served, move_chunk, record_failure, request_operation
from .overview import EXACT, Overview, overviews
from .packets import (
    BYTES_OF_A_CHARACTER,
    limits_statements,
    max_statement,
    may_be_too_long,
    statement_bytes,
)
from .pausing import pause, paused_backends, resume
from .previews import INDEXED, estimate_of, few_of, first_of, span_of
from .purge import (
    delete_events,
    find_dead_letters,
    find_delivered,
    lock_final,
    purge_entries,
)
from .receivers import ConsumerJudgement, ConsumerState, consumer_judgements
from .receiving import add_to_receiver, insert_received
from .relay import RelayRows
from .relay_sql import TIMELINE, keep_plans, relay_cursor
from .results import OperationResult, result_of
from .samples import Figures, Recent, add_to_minute, minute_of, recent_minutes
from .sizes import portions, size_of
from .slots import Slot, end_of_wal, has_confirmed, slots
from .sql import NOW
from .stuck import BlockedKey, SameError, blocked_keys, same_errors
from .time_partitioning import partition_outbox
from .time_partitions import (
    SEQUENCE,
    CannotPartition,
    drop_oldest,
    is_partitioned,
    keep_ahead,
    segments_of,
)
from .waiting_keys import keys_that_wait

__all__ = [
    "BYTES_OF_A_CHARACTER",
    "EXACT",
    "INDEXED",
    "MIGRATE",
    "MOVES",
    "NOW",
    "SEQUENCE",
    "TIMELINE",
    "BlockedKey",
    "CannotPartition",
    "ConsumerJudgement",
    "ConsumerState",
    "Count",
    "DatabaseClock",
    "DatabaseEpoch",
    "Endpoints",
    "EventColumns",
    "Facts",
    "Fetched",
    "Figures",
    "Head",
    "Judgement",
    "Level",
    "NewRow",
    "OperationResult",
    "Overview",
    "PendingRow",
    "Recent",
    "RelayRows",
    "SameError",
    "Slot",
    "State",
    "StoredRow",
    "Window",
    "add_to_minute",
    "add_to_receiver",
    "as_stored",
    "blocked_keys",
    "client_charset",
    "consumer_judgements",
    "copy_to_archive",
    "count_or_estimate",
    "delete_events",
    "django_clock",
    "drop_oldest",
    "end_of_wal",
    "estimate_of",
    "failed_of",
    "few_of",
    "find_dead_letters",
    "find_delivered",
    "first_of",
    "first_unstorable",
    "growth",
    "has_confirmed",
    "identity_of",
    "insert_event",
    "insert_new",
    "insert_received",
    "insert_row",
    "insert_rows",
    "instance_of",
    "is_partitioned",
    "is_served",
    "judge",
    "judgements",
    "keep_ahead",
    "keep_plans",
    "keys_that_wait",
    "lacks_migration",
    "limits_statements",
    "lock_final",
    "max_depth",
    "max_statement",
    "may_be_too_long",
    "may_lack_characters",
    "minute_of",
    "move_chunk",
    "narrow_columns",
    "overviews",
    "partition_outbox",
    "pause",
    "paused_backends",
    "portions",
    "postgres_encoding",
    "purge_entries",
    "read_stored",
    "recent_minutes",
    "record_failure",
    "relay_cursor",
    "request_operation",
    "result_of",
    "resume",
    "same_errors",
    "segments_of",
    "size_of",
    "slots",
    "span_of",
    "statement_bytes",
    "storable",
    "text_array",
    "with_leftovers",
]
