"""From a plain outbox to one in time partitions, once: see `segments`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from django.db import transaction

from .segments import (
    IDENTITIES,
    LOCK_TIMEOUT,
    REST,
    SEQUENCE,
    CannotPartition,
    events_within,
    is_partitioned,
    open_segment,
    storage_of,
)
from .statements import run, select
from .tables import EVENTS

MOST_ROWS: Final = 1_000_000
"""Rows that are read while writers and relays wait, which takes a second or two."""

FIRST: Final = f"{EVENTS}_from_0"

_TRIGGER: Final = f"""
CREATE OR REPLACE FUNCTION django_broadcaster_identify() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE known bigint;
BEGIN
    INSERT INTO {IDENTITIES} (identity, id) VALUES (NEW.identity, NEW.id)
    ON CONFLICT (identity) DO NOTHING;
    IF FOUND THEN
        RETURN NEW;
    END IF;
    SELECT id INTO known FROM {IDENTITIES} WHERE identity = NEW.identity;
    IF known = NEW.id THEN  -- it moves from one partition to another
        RETURN NEW;
    END IF;
    IF EXISTS (SELECT 1 FROM {EVENTS} WHERE id = known) THEN
        RETURN NULL;  -- published before: as ON CONFLICT DO NOTHING
    END IF;
    UPDATE {IDENTITIES} SET id = NEW.id WHERE identity = NEW.identity AND id = known;
    IF FOUND THEN
        RETURN NEW;
    END IF;
    RETURN NULL;
END $$
"""


def partition_outbox(using: str, width: timedelta, now: datetime) -> bool:
    """Put the outbox's table into partitions; return False if it is already.

    Its rows stay where they are: the table becomes the first segment. It is one transaction, for
    which writers and relays wait; the rows are read once in it. Raises CannotPartition, and
    DatabaseError where the table can't be had for itself within a second.
    """
    if is_partitioned(using):
        return False
    with transaction.atomic(using=using):
        run(using, f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        run(using, f"LOCK TABLE {EVENTS} IN ACCESS EXCLUSIVE MODE")
        _judge(using)
        size = events_within(using, width, now)
        sequence = select(using, "SELECT pg_get_serial_sequence(%s, 'id')", EVENTS)[0][0]
        last, is_called = select(using, f"SELECT last_value, is_called FROM {sequence}")[0]
        upper = last + size
        indexes = _step_aside(using)
        _make_parent(using, last, is_called, indexes)
        bounds = f"FOR VALUES FROM (MINVALUE) TO ({upper})"
        run(using, f"ALTER TABLE {EVENTS} ATTACH PARTITION {FIRST} {bounds}")
        storage = storage_of(using, FIRST)
        run(using, f"CREATE TABLE {REST} PARTITION OF {EVENTS} DEFAULT{storage}")
        run(using, f"CREATE UNIQUE INDEX ON {REST} (identity) WHERE identity IS NOT NULL")
        _identify(using)
        _pass_on_rights(using)
        open_segment(using, upper, upper + size, like=FIRST)
    return True


def _judge(using: str) -> None:
    """Raise CannotPartition where something would be lost or take long."""
    sql = "SELECT conrelid::regclass::text FROM pg_constraint WHERE confrelid = %s::regclass"
    if names := [row[0] for row in select(using, sql, EVENTS)]:
        raise CannotPartition(f"foreign keys of {', '.join(names)} point to it: drop them first")
    sql = "SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass AND NOT tgisinternal"
    if names := [row[0] for row in select(using, sql, EVENTS)]:
        raise CannotPartition(f"it has the triggers {', '.join(names)}: drop them first")
    counted = f"SELECT COUNT(*) FROM (SELECT 1 FROM {EVENTS} LIMIT {MOST_ROWS + 1}) c"
    if select(using, counted)[0][0] > MOST_ROWS:
        raise CannotPartition(
            f"it has more than {MOST_ROWS:,} rows, which writers would have to wait for: "
            "run outbox_purge first"
        )


def _step_aside(using: str) -> list[str]:
    """Give the table and its indexes other names; return how to make the indexes again."""
    sql = (
        "SELECT c.relname, pg_get_indexdef(c.oid), i.indisunique FROM pg_index i "
        "JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = %s::regclass"
    )
    found = select(using, sql, EVENTS)
    run(using, f"ALTER TABLE {EVENTS} RENAME TO {FIRST}")
    for name, _, _ in found:
        run(using, f'ALTER INDEX "{name}" RENAME TO "{name[:58]}_0"')
    return [definition for _, definition, unique in found if not unique]


def _make_parent(using: str, last: int, is_called: bool, indexes: list[str]) -> None:
    sql = "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = %s::regclass"
    owner = select(using, f"SELECT quote_ident(o) FROM ({sql}) AS s(o)", FIRST)[0][0]
    like = f"LIKE {FIRST} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE"
    run(
        using,
        f"ALTER TABLE {FIRST} ALTER id DROP IDENTITY IF EXISTS",
        f"CREATE SEQUENCE {SEQUENCE}",
        f"CREATE TABLE {EVENTS} ({like}) PARTITION BY RANGE (id)",
        f"ALTER TABLE {EVENTS} OWNER TO {owner}",
        f"ALTER SEQUENCE {SEQUENCE} OWNER TO {owner}",
        f"ALTER TABLE {EVENTS} ALTER id SET DEFAULT nextval('{SEQUENCE}')",
        f"ALTER SEQUENCE {SEQUENCE} OWNED BY {EVENTS}.id",
        f"ALTER TABLE {EVENTS} ADD CONSTRAINT {EVENTS}_pkey PRIMARY KEY (id)",
        *indexes,
    )
    select(using, "SELECT setval(%s, %s, %s)", SEQUENCE, last, is_called)


def _identify(using: str) -> None:
    """Make the table of identities, fill it, and let a trigger keep it."""
    filled = f"INSERT INTO {IDENTITIES} SELECT identity, id FROM {FIRST} WHERE identity IS NOT NULL"
    run(
        using,
        f"CREATE TABLE {IDENTITIES} (identity varchar(64) PRIMARY KEY, id bigint NOT NULL)",
        f"CREATE INDEX ON {IDENTITIES} (id)",
        filled,
    )
    run(
        using,
        _TRIGGER,
        f"CREATE TRIGGER django_broadcaster_identify BEFORE INSERT ON {EVENTS} FOR EACH ROW "
        "WHEN (NEW.identity IS NOT NULL) EXECUTE FUNCTION django_broadcaster_identify()",
    )


def _pass_on_rights(using: str) -> None:
    """Grant on the new tables what was granted on the old one."""
    sql = (
        "SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END, "
        "string_agg(a.privilege_type, ', ') FROM pg_class c, aclexplode(c.relacl) a "
        "WHERE c.oid = %s::regclass AND a.grantee <> c.relowner GROUP BY 1"
    )
    for grantee, rights in select(using, sql, FIRST):
        run(using, f"GRANT {rights} ON {EVENTS}, {IDENTITIES} TO {grantee}")
        run(using, f"GRANT USAGE, SELECT ON SEQUENCE {SEQUENCE} TO {grantee}")
