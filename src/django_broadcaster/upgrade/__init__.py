"""Move events from the table of version 0.1.1, `outbox_events`, into the outbox, and back.

`old_table` reads and writes that table, `rows` converts rows, and `moving` moves them in batches.
Each batch is one transaction that inserts rows into one table and deletes them from the other. So
even after a crash, an event is in exactly one of the tables.

A migration runs this code. Because models may change later, the code uses column names instead.
"""

from .moving import UNDELIVERED, move_back, move_events
from .old_table import OldTable, ReferencedError
from .output import remember_output, stdout_of_migrate
from .report import Report

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
