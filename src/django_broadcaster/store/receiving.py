"""The statements of a receiver: the rows of a batch, and its figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from django.db.backends.base.base import BaseDatabaseWrapper

from .insert_many import from_arrays
from .new_rows import NewRow
from .sql import NOW, RECEIVERS, change

_ADD: Final = (
    f"UPDATE {RECEIVERS} SET heartbeat_at = {{now}}, last_received_at = {{now}}, "
    "received = received + %s, duplicates = duplicates + {duplicates}, malformed = malformed + %s "
    "WHERE id = %s AND consumer = %s"
)
"""Plain SQL: each batch sends it, and Django takes longer to write it than the server to run it."""

_INSERT_AND_ADD: Final = (
    # Heartbeats don't wait for the lock; the end of the lease does.
    f"WITH receiver AS (SELECT id FROM {RECEIVERS} WHERE id = %s AND consumer = %s FOR KEY SHARE), "
    "new AS ({insert}) "
    + _ADD.format(now=NOW["postgresql"], duplicates="%s - (SELECT COUNT(*) FROM new)")
    + " RETURNING (SELECT COUNT(*) FROM new)"
)


def add_to_receiver(
    connection: BaseDatabaseWrapper,
    receiver: int,
    consumer: str,
    *,
    received: int,
    duplicates: int,
    malformed: int,
) -> bool:
    """Add a batch to the figures of a receiver; return False if its row is not there any more."""
    sql = _ADD.format(now=NOW[connection.vendor], duplicates="%s")
    figures = (received, duplicates, malformed)
    return change(connection.alias, sql, *figures, receiver, consumer) > 0


def insert_received(
    connection: BaseDatabaseWrapper,
    rows: Sequence[NewRow],
    receiver: int,
    consumer: str,
    *,
    received: int,
) -> int | None:
    """Write the rows of a batch and its figures in one statement, for PostgreSQL.

    It takes one round trip instead of five, and no transaction stays open between statements.

    Returns:
        How many rows are new; None if the receiver's row is not there any more, and so nothing was
        written.
    """
    exists = "EXISTS (SELECT 1 FROM receiver)"
    insert, params = from_arrays(rows, only_if=exists, returning="1")
    figures = (received, len(rows), 0)
    with connection.cursor() as cursor:
        sql = _INSERT_AND_ADD.format(insert=insert)
        cursor.execute(sql, [receiver, consumer, *params, *figures, receiver, consumer])
        found = cursor.fetchone()
    return None if found is None else int(found[0])
