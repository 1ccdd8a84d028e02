"""Checks that query the database; they run with `migrate` and `check --database`."""

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

from ..check_messages import Messages, error, warning
from ..conf import conf
from ..store.sql import EVENTS
from ..upgrade import OldTable

_ID_SEQUENCES = """
    SELECT s.seqrelid::regclass::text, s.seqcache
    FROM pg_depend d JOIN pg_sequence s ON s.seqrelid = d.objid
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
    AND d.refobjid = to_regclass('django_broadcaster_outboxevent')
"""


def check_id_sequence(databases: Sequence[str] | None = None, **_: Any) -> Messages:
    """Check that PostgreSQL assigns ids one by one, because ids order the events of a key.

    With a larger CACHE, each connection reserves a block of ids, so a later event may get a lower
    id than an earlier event of another connection.
    """
    postgres = [alias for alias in databases or () if connections[alias].vendor == "postgresql"]
    return [
        _cached_sequence(alias, sequence, size)
        for alias in postgres
        for sequence, size in _id_sequences(alias)
        if size != 1
    ]


def _id_sequences(alias: str) -> list[tuple[str, int]]:
    """Return the outbox's sequences, each with its CACHE; none before the first migration."""
    with connections[alias].cursor() as cursor:
        cursor.execute(_ID_SEQUENCES)
        return list(cursor.fetchall())


def _cached_sequence(alias: str, sequence: str, size: int) -> CheckMessage:
    message = (
        f"The sequence {sequence} of database {alias!r} must have CACHE 1, not {size}: events of a "
        "key may be delivered out of order."
    )
    return error("E024", message, f"Run this SQL: ALTER SEQUENCE {sequence} CACHE 1;")


def check_partitions(databases: Sequence[str] | None = None, **_: Any) -> Messages:
    """Check that the outbox's table has time partitions if OUTBOX_TIME_PARTITIONS is set.

    The SQL of publish calls with an event id depends on it.
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
        message = f"OUTBOX_TIME_PARTITIONS is set, but the outbox of {alias!r} has no partitions."
        return error("E035", message, f"Run manage.py outbox_partition --database {alias}.")
    message = f"The outbox of {alias!r} has partitions, but OUTBOX_TIME_PARTITIONS is not set."
    return error("E035", message, "Set OUTBOX_TIME_PARTITIONS = timedelta(days=1).")


def check_events_of_0_1(databases: Sequence[str] | None = None, **_: Any) -> Messages:
    """Warn about events in the table of 0.1.1.

    Processes of 0.1.1 that ran after `migrate` wrote them.
    """
    return [_events_left(alias) for alias in databases or () if _has_events_of_0_1(alias)]


def _has_events_of_0_1(alias: str) -> bool:
    connection = connections[alias]
    if EVENTS not in connection.introspection.table_names():
        return False  # this check runs before `migrate`, which moves them
    old = OldTable(alias)
    return old.exists() and not old.is_empty()


def _events_left(alias: str) -> CheckMessage:
    message = f"The table outbox_events of database {alias!r} has events of version 0.1.1."
    return warning("W008", message, f"Run manage.py outbox_upgrade --database {alias}.")


def check_character_sets(databases: Sequence[str] | None = None, **_: Any) -> Messages:
    """Check that the database can store every character of Unicode.

    Otherwise publish calls refuse events with other characters, and stored errors have escapes.
    """
    found: Messages = []
    for alias in databases or ():
        vendor = connections[alias].vendor
        if vendor == "postgresql" and _id_sequences(alias):
            found += _narrow_encoding(alias)
        elif vendor == "mysql":
            found += [*_narrow_client(alias), *_narrow_tables(alias)]
    return found


_REFUSES = "so publish calls refuse events with other characters"


def _narrow_encoding(alias: str) -> Iterator[CheckMessage]:
    encoding = postgres_encoding(connections[alias])
    if encoding not in ("UTF8", "SQL_ASCII"):
        message = f"Database {alias!r} has the encoding {encoding}, {_REFUSES}."
        hint = "Create a database WITH ENCODING 'UTF8', and copy the tables with pg_dump."
        yield warning("W006", message, hint)


def _narrow_client(alias: str) -> Iterator[CheckMessage]:
    charset = client_charset(connections[alias])
    if charset != "utf8mb4":
        message = f"Connections to database {alias!r} use the character set {charset}, {_REFUSES}."
        hint = f"Set DATABASES[{alias!r}]['OPTIONS']['charset'] to 'utf8mb4'."
        yield warning("W006", message, hint)


def _narrow_tables(alias: str) -> Iterator[CheckMessage]:
    """Yield a message for each table. Converting a whole table would change its collations."""
    for table, columns in groupby(narrow_columns(connections[alias]), lambda each: each.table):
        narrow = list(columns)
        message = (
            f"The table {table} of database {alias!r} has text columns with the character set "
            f"{narrow[0].charset}, {_REFUSES}."
        )
        changes = ", ".join(f"MODIFY `{each.column}` {each.definition}" for each in narrow)
        yield warning("W006", message, f"Run this SQL: ALTER TABLE {table} {changes};")


def check_isolation_level(databases: Sequence[str] | None = None, **_: Any) -> Messages:
    """Check that MariaDB or MySQL writes at the isolation level that connections use."""
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
        f"Database {alias!r} refuses writes at the isolation level {_isolation(variables)}, "
        "because its binlog_format is STATEMENT."
    )
    hint = (
        f"Set DATABASES[{alias!r}]['OPTIONS']['isolation_level'] to 'repeatable read', or set the "
        "server's binlog_format to MIXED."
    )
    return error("E031", message, hint)


def check_transaction_mode(databases: Sequence[str] | None = None, **_: Any) -> Messages:
    """Check that a transaction on SQLite takes the write lock when it begins.

    Otherwise a transaction that reads first fails to write if a relay wrote in between.
    """
    return [
        warning(
            "W007",
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
