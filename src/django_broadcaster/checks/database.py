"""Checks that ask the database; they run with `migrate` and `check --database`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from django.core.checks import CheckMessage
from django.db import connections

from django_broadcaster.store import (
    client_charset,
    is_partitioned,
    narrow_columns,
    postgres_encoding,
)

from ..conf import conf
from ..store.sql import EVENTS
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


def check_character_sets(databases: Sequence[str] | None = None, **_: Any) -> Messages:
    """The outbox can hold all of Unicode.

    If it can't, publish calls refuse characters that it lacks, and texts of errors get escapes.
    """
    found: Messages = []
    for alias in databases or ():
        vendor = connections[alias].vendor
        if vendor == "postgresql" and _id_sequences(alias):
            found += _narrow_encoding(alias)
        elif vendor == "mysql":
            found += [*_narrow_client(alias), *_narrow_tables(alias)]
    return found


_REFUSES = "so publish calls refuse events with characters that it does not have"


def _narrow_encoding(alias: str) -> Iterator[CheckMessage]:
    encoding = postgres_encoding(connections[alias])
    if encoding not in ("UTF8", "SQL_ASCII"):
        message = f"Database {alias!r} has the encoding {encoding}, {_REFUSES}."
        hint = "Create a database WITH ENCODING 'UTF8', and move the tables there with pg_dump."
        yield warning("W011", message, hint)


def _narrow_client(alias: str) -> Iterator[CheckMessage]:
    charset = client_charset(connections[alias])
    if charset != "utf8mb4":
        message = f"Connections to database {alias!r} use the character set {charset}, {_REFUSES}."
        hint = f"Set DATABASES[{alias!r}]['OPTIONS']['charset'] to 'utf8mb4'."
        yield warning("W011", message, hint)


def _narrow_tables(alias: str) -> Iterator[CheckMessage]:
    """Yield a message for each table; to convert a table as a whole would change its collations."""
    for table, columns in groupby(narrow_columns(connections[alias]), lambda each: each.table):
        narrow = list(columns)
        message = (
            f"The table {table} of database {alias!r} has text columns with the character set "
            f"{narrow[0].charset}, {_REFUSES}."
        )
        changes = ", ".join(f"MODIFY `{each.column}` {each.definition}" for each in narrow)
        yield warning("W011", message, f"Run this SQL: ALTER TABLE {table} {changes};")


def check_isolation_level(databases: Sequence[str] | None = None, **_: Any) -> Messages:
    """MariaDB and MySQL refuse changes at READ COMMITTED that a log of statements can't have."""
    return [
        _isolation_refused(alias, variables)
        for alias in databases or ()
        if connections[alias].vendor == "mysql"
        and (variables := _variables(alias))
        and variables.get("log_bin") == "ON"
        and variables.get("binlog_format") == "STATEMENT"
        and _isolation(variables) in ("READ-COMMITTED", "READ-UNCOMMITTED")
    ]


def _variables(alias: str) -> dict[str, str]:
    names = "'log_bin', 'binlog_format', 'tx_isolation', 'transaction_isolation'"
    with connections[alias].cursor() as cursor:
        cursor.execute(f"SHOW VARIABLES WHERE Variable_name IN ({names})")
        return dict(cursor.fetchall())


def _isolation(variables: Mapping[str, str]) -> str:
    return variables.get("transaction_isolation") or variables.get("tx_isolation") or ""


def _isolation_refused(alias: str, variables: Mapping[str, str]) -> CheckMessage:
    message = (
        f"Database {alias!r} has binlog_format STATEMENT, with which it refuses to write at the "
        f"isolation level {_isolation(variables)}."
    )
    hint = (
        f"Set DATABASES[{alias!r}]['OPTIONS']['isolation_level'] to 'repeatable read', or set the "
        "server's binlog_format to MIXED."
    )
    return error("E031", message, hint)


def check_transaction_mode(databases: Sequence[str] | None = None, **_: Any) -> Messages:
    """On SQLite a transaction takes the write lock as it begins.

    One that reads first and writes later fails at once if a relay has written in between.
    """
    return [
        warning(
            "W012",
            f"On the SQLite database {alias!r} a transaction that reads before it writes can fail "
            "with 'database is locked' while a relay runs.",
            f"Set DATABASES[{alias!r}]['OPTIONS']['transaction_mode'] to 'IMMEDIATE'.",
        )
        for alias in databases or ()
        if connections[alias].vendor == "sqlite"
        and not _is_in_memory(alias)
        and _transaction_mode(alias) not in ("IMMEDIATE", "EXCLUSIVE")
    ]


def _transaction_mode(alias: str) -> str:
    return str(connections[alias].settings_dict["OPTIONS"].get("transaction_mode")).upper()


def _is_in_memory(alias: str) -> bool:
    name = str(connections[alias].settings_dict["NAME"])
    return name == ":memory:" or "mode=memory" in name
