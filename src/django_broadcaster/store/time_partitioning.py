"""The conversion of a plain outbox into time partitions: see `time_partitions`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from django.db import transaction

from .sql import EVENTS, run, select
from .time_partitions import (
    IDENTITIES,
    LOCK_TIMEOUT,
    REST,
    SEQUENCE,
    CannotPartition,
    events_within,
    go_home,
    is_partitioned,
    open_segment,
    owner_of,
    storage_of,
)

MOST_ROWS: Final = 1_000_000
"""Maximum of rows, which are read in a second or two while writers and relays wait."""

FIRST: Final = f"{EVENTS}_from_0"

_TRIGGER: Final = """
CREATE OR REPLACE FUNCTION {home}.django_broadcaster_identify() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = {home}, pg_temp AS $$
DECLARE known bigint;
BEGIN
    INSERT INTO {identities} (identity, id) VALUES (NEW.identity, NEW.id)
    ON CONFLICT (identity) DO NOTHING;
    IF FOUND THEN
        RETURN NEW;
    END IF;
    SELECT id INTO known FROM {identities} WHERE identity = NEW.identity;
    IF known = NEW.id THEN  -- it moves from one partition to another
        RETURN NEW;
    END IF;
    IF EXISTS (SELECT 1 FROM {events} WHERE id = known AND identity = NEW.identity) THEN
        RETURN NULL;  -- published before: as ON CONFLICT DO NOTHING
    END IF;
    UPDATE {identities} SET id = NEW.id WHERE identity = NEW.identity AND id = known;
    IF FOUND THEN
        RETURN NEW;
    END IF;
    RETURN NULL;
END $$
"""
"""The trigger that skips events whose identity exists.

The function runs with the rights of the table's owner, so publishers need none on identities. It
compares the row's identity, not only its id: after a TRUNCATE that restarts the ids, another row
may have the id.
"""


def partition_outbox(using: str, width: timedelta, now: datetime) -> bool:
    """Partition the outbox's table; return False if it is partitioned already.

    The rows are not moved: the table becomes the first segment. Writers and relays wait for the
    transaction, which reads the rows once. For a partitioned table, only the trigger is replaced by
    that of this version.

    Raises:
        CannotPartition: The table has something that partitions would lose, or too many rows.
        DatabaseError: The table could not be locked within a second.
    """
    if is_partitioned(using):
        with transaction.atomic(using=using):
            _make_function(using, go_home(using))
        return False
    with transaction.atomic(using=using):
        run(using, f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        home = go_home(using)
        run(using, f"LOCK TABLE {EVENTS} IN ACCESS EXCLUSIVE MODE")
        _check(using)
        size = events_within(using, width, now)
        sequence = select(using, "SELECT pg_get_serial_sequence(%s, 'id')", EVENTS)[0][0]
        last, is_called = select(using, f"SELECT last_value, is_called FROM {sequence}")[0]
        upper = last + size
        indexes = _rename(using)
        _make_parent(using, last, is_called, indexes)
        bounds = f"FOR VALUES FROM (MINVALUE) TO ({upper})"
        run(using, f"ALTER TABLE {EVENTS} ATTACH PARTITION {FIRST} {bounds}")
        storage = storage_of(using, FIRST)
        run(using, f"CREATE TABLE {REST} PARTITION OF {EVENTS} DEFAULT{storage}")
        run(using, f"CREATE UNIQUE INDEX ON {REST} (identity) WHERE identity IS NOT NULL")
        _identify(using, home)
        _pass_on_rights(using)
        open_segment(using, upper, upper + size, like=FIRST)
    return True


def _check(using: str) -> None:
    """Raise CannotPartition if a constraint would be lost, or if the move would take long."""
    sql = "SELECT conrelid::regclass::text FROM pg_constraint WHERE confrelid = %s::regclass"
    if names := [row[0] for row in select(using, sql, EVENTS)]:
        raise CannotPartition(
            f"foreign keys of {', '.join(names)} reference the table; drop them first"
        )
    sql = "SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass AND NOT tgisinternal"
    if names := [row[0] for row in select(using, sql, EVENTS)]:
        raise CannotPartition(f"the table has the triggers {', '.join(names)}; drop them first")
    sql = "SELECT 1 FROM pg_class WHERE oid = %s::regclass AND relrowsecurity"
    if select(using, sql, EVENTS):
        raise CannotPartition(
            "the table has row-level security, which partitions would not have; disable it first"
        )
    counted = f"SELECT COUNT(*) FROM (SELECT 1 FROM {EVENTS} LIMIT {MOST_ROWS + 1}) c"
    if select(using, counted)[0][0] > MOST_ROWS:
        raise CannotPartition(
            f"the table has more than {MOST_ROWS:,} rows, so writers would wait too long; "
            "run outbox_purge first"
        )


def _rename(using: str) -> list[str]:
    """Rename the table and its indexes; return the statements that create the indexes."""
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
    owner = owner_of(using, FIRST)
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


def _identify(using: str, home: str) -> None:
    """Create and fill the table of identities, and create the trigger that updates it.

    If the table exists, it belonged to a table of events that has been dropped.
    """
    filled = f"INSERT INTO {IDENTITIES} SELECT identity, id FROM {FIRST} WHERE identity IS NOT NULL"
    owner = owner_of(using, EVENTS)
    run(
        using,
        f"DROP TABLE IF EXISTS {home}.{IDENTITIES}",
        f"CREATE TABLE {IDENTITIES} (identity varchar(64) PRIMARY KEY, id bigint NOT NULL)",
        f"CREATE INDEX ON {IDENTITIES} (id)",
        filled,
        f"ALTER TABLE {IDENTITIES} OWNER TO {owner}",
        f"ALTER TABLE {REST} OWNER TO {owner}",
    )
    _make_function(using, home)
    run(
        using,
        f"CREATE TRIGGER django_broadcaster_identify BEFORE INSERT ON {EVENTS} FOR EACH ROW "
        f"WHEN (NEW.identity IS NOT NULL) EXECUTE FUNCTION {home}.django_broadcaster_identify()",
    )


def _make_function(using: str, home: str) -> None:
    tables = {"events": f"{home}.{EVENTS}", "identities": f"{home}.{IDENTITIES}"}
    function = f"{home}.django_broadcaster_identify()"
    run(
        using,
        _TRIGGER.format(home=home, **tables),
        f"ALTER FUNCTION {function} OWNER TO {owner_of(using, EVENTS)}",
    )


_RIGHTS: Final = """
    SELECT CASE WHEN grantee = 0 THEN 'PUBLIC' ELSE grantee::regrole::text END,
           string_agg(privilege_type || place, ', '),
           CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END,
           bool_or(privilege_type = 'INSERT')
    FROM (
        SELECT a.*, '' AS place, c.relowner FROM pg_class c, aclexplode(c.relacl) a
        WHERE c.oid = %s::regclass
        UNION ALL
        SELECT a.*, ' (' || quote_ident(t.attname) || ')', c.relowner
        FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid, aclexplode(t.attacl) a
        WHERE c.oid = %s::regclass
    ) r
    WHERE grantee <> relowner GROUP BY 1, is_grantable
"""


def _pass_on_rights(using: str) -> None:
    """Grant the rights on the old table and its columns for the new table."""
    for grantee, rights, option, writes in select(using, _RIGHTS, FIRST, FIRST):
        run(using, f"GRANT {rights} ON {EVENTS} TO {grantee}{option}")
        if writes:
            run(using, f"GRANT USAGE, SELECT ON SEQUENCE {SEQUENCE} TO {grantee}{option}")
