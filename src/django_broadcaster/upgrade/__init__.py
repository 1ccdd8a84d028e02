"""From the table of version 0.1.1, `outbox_events`, into the outbox, and back.

`old_table` is that table, `rows` makes a row of the outbox of one of its rows, or the reverse, and
`moving` moves them in batches. Each batch is one transaction: it inserts rows into one table and
deletes them from the other, so that an event is in exactly one of them, whatever crashes.

A migration runs this code, so it knows the columns of its time by name and uses no model.
"""

from .moving import UNDELIVERED, move_back, move_events
from .old_table import OldTable, ReferencedError
from .report import Report
from .telling import remember_output, stdout_of_migrate

__all__ = [
    "UNDELIVERED",
    "OldTable",
    "ReferencedError",
    "Report",
    "move_back",
    "move_events",
    "remember_output",
    "stdout_of_migrate",
]
