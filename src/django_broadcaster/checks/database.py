"""Checks that ask the database; they run with `migrate` and `check --database`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage
from django.db import connections

from ..conf import conf
from ..querysets import is_partitioned
from ..querysets.tables import EVENTS
from ..upgrade import OldTable
from .shared import Messages, error, warning

_ID_SEQUENCES = """
    SELECT s.seqrelid::regclass::text, s.seqcache
    FROM pg_depend d JOIN pg_sequence s ON s.seqrelid = d.objid
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
    AND d.refobjid = to_regclass('django_broadcaster_outboxevent')
"""


def check_id_sequence(databases: Sequence[str] | None = None, **_: Any) -> Messages:
    """On PostgreSQL the outbox's ids are handed out one by one: they order the events of a key.

    With a larger CACHE each connection takes a block of ids for itself, so that a later event
    may get a lower id than an earlier one of another connection.
    """
    postgres = [alias for alias in databases or () if connections[alias].vendor == "postgresql"]
    return [
        _cached_sequence(alias, sequence, size)
        for alias in postgres
        for sequence, size in _id_sequences(alias)
        if size != 1
    ]


def _id_sequences(alias: str) -> list[tuple[str, int]]:
    """Return the outbox's sequence and its CACHE; nothing where there is no table yet."""
    with connections[alias].cursor() as cursor:
        cursor.execute(_ID_SEQUENCES)
        return list(cursor.fetchall())


def _cached_sequence(alias: str, sequence: str, size: int) -> CheckMessage:
    message = (
        f"The sequence {sequence} of database {alias!r} has CACHE {size}, so the events of a key "
        "may be delivered in another order than they were published in."
    )
    return error("E024", message, f"Run this SQL: ALTER SEQUENCE {sequence} CACHE 1;")


def check_partitions(databases: Sequence[str] | None = None, **_: Any) -> Messages:
    """On PostgreSQL the outbox is in time partitions if OUTBOX_TIME_PARTITIONS says so.

    Publish calls that name an event id are written for the one or for the other.
    """
    wanted = conf.TIME_PARTITIONS is not None
    return [
        _partitions_differ(alias, wanted)
        for alias in databases or ()
        if connections[alias].vendor == "postgresql"
        and _id_sequences(alias)
        and is_partitioned(alias) != wanted
    ]


def _partitions_differ(alias: str, wanted: bool) -> CheckMessage:
    if wanted:
        message = f"OUTBOX_TIME_PARTITIONS is set, but the outbox of {alias!r} is a plain table."
        return error("E043", message, f"Run manage.py outbox_partition --database {alias}.")
    message = f"The outbox of {alias!r} is in partitions, but OUTBOX_TIME_PARTITIONS is not set."
    return error("E043", message, "Write OUTBOX_TIME_PARTITIONS = timedelta(days=1).")


def check_events_of_0_1(databases: Sequence[str] | None = None, **_: Any) -> Messages:
    """No event is left in the table of 0.1.1, once the outbox is there.

    Processes of 0.1.1 that went on after `migrate` have written it.
    """
    return [_events_left(alias) for alias in databases or () if _has_events_of_0_1(alias)]


def _has_events_of_0_1(alias: str) -> bool:
    connection = connections[alias]
    if EVENTS not in connection.introspection.table_names():
        return False  # `migrate`, which checks before it begins, will move them
    old = OldTable(alias)
    return old.exists() and not old.is_empty()


def _events_left(alias: str) -> CheckMessage:
    message = f"The table outbox_events of database {alias!r} has events of version 0.1.1."
    return warning("W070", message, f"Run manage.py outbox_upgrade --database {alias}.")
