"""The outbox in time partitions on PostgreSQL, where a purge drops a table.

The table is partitioned by ranges of `id`, in the order in which events were created, and keeps its
primary key. A partition is called a segment. It has about the events of OUTBOX_TIME_PARTITIONS.
Its bounds are fixed when it is created, one segment ahead of the one in use. The default partition,
called the rest, has events without a segment, and those that a dropped segment had to keep.

A unique index can't span partitions. So a trigger reads and fills a separate table of identities.
As without partitions, an identity exists as long as the row of its event.

No statement here waits long for a lock, because other statements would wait for it. A statement
that times out raises an error, and is retried a minute later.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from django.db import DatabaseError, connections, transaction

from django_broadcaster.models.managers import stored_moment

from .sql import EVENTS, change, run, select

REST: Final = f"{EVENTS}_rest"
IDENTITIES: Final = "django_broadcaster_outboxidentity"
SEQUENCE: Final = f"{EVENTS}_id_seq"

LEAST: Final = 10_000
"""Minimum of events in a segment; for fewer events, deleting rows is fast enough."""

MOST_KEPT: Final = 10_000
"""Maximum of events that are copied out of a dropped segment, while others wait."""

LOCK_TIMEOUT: Final = "1s"
_DOOMED: Final = "django_broadcaster: to be dropped"
_LOCK: Final = 7_306_001  # of advisory locks: one relay at a time changes segments


class Segment(NamedTuple):
    """A partition for the ids from `lower`, which is None for the first one, to below `upper`."""

    name: str
    lower: int | None
    upper: int


def is_partitioned(using: str) -> bool:
    """Return True if the outbox's table is partitioned."""
    if connections[using].vendor != "postgresql":
        return False
    kind = f"SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass('{EVENTS}')"
    return any(row[0] for row in select(using, kind))


def segments_of(using: str) -> list[Segment]:
    """Return the attached segments, the oldest first."""
    sql = (
        "SELECT c.oid::regclass::text, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i "
        f"JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass('{EVENTS}')"
    )
    found = []
    for name, bound in select(using, sql):
        if bound != "DEFAULT":
            # FOR VALUES FROM ('1') TO ('10001'), or FROM (MINVALUE)
            lower, upper = (text.strip("('\")") for text in bound[16:].split(" TO "))
            found.append(Segment(name, None if lower == "MINVALUE" else int(lower), int(upper)))
    return sorted(found, key=lambda segment: segment.upper)


def keep_ahead(using: str, width: timedelta, now: datetime) -> Segment | None:
    """Create a segment for future ids if there is none; return it, or None."""
    with _alone(using) as may:
        if not may:
            return None
        known, last = segments_of(using), last_id(using)
        newest = known[-1]
        if last < (newest.lower or 0):
            return None
        size = events_within(using, width, now)
        # Leave out the ids in use now: the rest may already have rows with such ids.
        lower = newest.upper if last < newest.upper else last + 1 + size
        return open_segment(using, lower, lower + size, like=newest.name)


def open_segment(using: str, lower: int, upper: int, like: str) -> Segment:
    """Create a segment with the storage parameters of `like`, without blocking writers."""
    name = f"{EVENTS}_from_{lower}"
    storage = storage_of(using, like)
    run(
        using,
        f"CREATE TABLE {name} (LIKE {EVENTS} INCLUDING DEFAULTS INCLUDING CONSTRAINTS){storage}",
        f"ALTER TABLE {name} OWNER TO {owner_of(using, EVENTS)}",
        f"CREATE UNIQUE INDEX ON {name} (identity) WHERE identity IS NOT NULL",
        f"ALTER TABLE {EVENTS} ATTACH PARTITION {name} FOR VALUES FROM ({lower}) TO ({upper})",
    )
    return Segment(name, lower, upper)


def storage_of(using: str, table: str) -> str:
    """Return a table's storage parameters as a clause; partitions don't inherit them."""
    sql = "SELECT array_to_string(reloptions, ', ') FROM pg_class WHERE oid = %s::regclass"
    options = select(using, sql, table)[0][0]
    return f" WITH ({options})" if options else ""


def drop_oldest(using: str, before: datetime) -> str | None:
    """Drop the oldest segment if its events ended before a time; return its name, or None.

    Up to MOST_KEPT other events, such as dead letters, move to the rest. One query of the segment
    finds them.

    Raises:
        DatabaseError: A lock was not available in time.
    """
    _drop_detached(using)
    with _alone(using) as may:
        oldest = segments_of(using)[0] if may else None
        if oldest is None or not _is_behind(using, oldest, before):
            return None
        # From here on, the segment does not change. It is read before other statements must wait.
        run(using, f"LOCK TABLE {oldest.name} IN SHARE MODE")
        old = "status IN ('published', 'cancelled') AND "
        cancelled = "GREATEST(ended_at, scheduled_at)"  # as in purges: not before its time
        ended = f"CASE status WHEN 'published' THEN published_at ELSE {cancelled} END"
        old += f"COALESCE({ended}, scheduled_at) < %s"
        sql = f"SELECT id FROM {oldest.name} WHERE NOT ({old}) LIMIT {MOST_KEPT + 1}"
        kept = [row[0] for row in select(using, sql, before)]
        if len(kept) > MOST_KEPT:
            return None
        columns = ", ".join(_columns(using))
        run(
            using,
            f"ALTER TABLE {EVENTS} DETACH PARTITION {oldest.name}",
            f"COMMENT ON TABLE {oldest.name} IS '{_DOOMED}'",
        )
        move = f"INSERT INTO {EVENTS} ({columns}) SELECT {columns} FROM {oldest.name}"
        change(using, f"{move} WHERE id = ANY(%s)", kept)
    _drop_detached(using)
    return oldest.name


def _is_behind(using: str, segment: Segment, before: datetime) -> bool:
    """Return True if an event with an id above the segment was created before a time."""
    sql = f"SELECT created_at FROM {EVENTS} WHERE id >= %s ORDER BY id LIMIT 1"
    rows = select(using, sql, segment.upper)
    return bool(rows) and _moment(rows[0][0], using) < before


def _drop_detached(using: str) -> None:
    """Drop the segments that `drop_oldest` detached, and identities without a row.

    A segment that an administrator detached is kept.
    """
    sql = (
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_class p ON p.oid = %s::regclass "
        "AND p.relnamespace = c.relnamespace WHERE c.relkind = 'r' AND NOT c.relispartition "
        "AND obj_description(c.oid, 'pg_class') = %s"
    )
    for (name,) in select(using, sql, EVENTS, _DOOMED):
        run(using, f"DROP TABLE {name}")
    lowest = segments_of(using)[0].lower
    if lowest is not None:
        gone = f"SELECT id FROM {IDENTITIES} i WHERE id < %s AND NOT EXISTS "
        gone += f"(SELECT 1 FROM {REST} r WHERE r.id = i.id) LIMIT {MOST_KEPT}"
        change(using, f"DELETE FROM {IDENTITIES} WHERE id IN ({gone})", lowest)


def last_id(using: str) -> int:
    """Return the last id of the sequence."""
    sql = f"SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM {SEQUENCE}"
    return int(select(using, sql)[0][0])


def events_within(using: str, width: timedelta, now: datetime) -> int:
    """Estimate the number of events in a span of time from those of the last such span.

    If the outbox covers a shorter time, the estimate is twice its number of events: a burst is not
    extrapolated. The minimum is LEAST.
    """
    edges = f"(SELECT MIN(id) FROM {EVENTS}), (SELECT MAX(id) FROM {EVENTS})"
    first, last = select(using, f"SELECT {edges}")[0]
    if first is None:
        return LEAST
    low, high = first, last
    while low < high:  # ids are approximately in the order of time
        middle = (low + high) // 2
        if _created_from(using, middle) < now - width:
            low = middle + 1
        else:
            high = middle
    seen = int(last) - int(low) + 1
    return max(LEAST, seen if low > first else 2 * seen)


def _created_from(using: str, row_id: int) -> datetime:
    sql = f"SELECT created_at FROM {EVENTS} WHERE id >= %s ORDER BY id LIMIT 1"
    return _moment(select(using, sql, row_id)[0][0], using)


def _columns(using: str) -> list[str]:
    sql = "SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = %s::regclass "
    sql += "AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    return [row[0] for row in select(using, sql, EVENTS)]


def go_home(using: str) -> str:
    """Create new tables of this transaction in the outbox's schema; return that schema, quoted.

    With several schemas in `search_path`, the first one would have them.
    """
    sql = (
        "SELECT quote_ident(n.nspname), set_config('search_path', quote_ident(n.nspname) || "
        "COALESCE(', ' || NULLIF(current_setting('search_path'), ''), ''), true) "
        "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s::regclass"
    )
    return str(select(using, sql, EVENTS)[0][0])


def owner_of(using: str, table: str) -> str:
    """Return the owner of a table, quoted."""
    sql = "SELECT quote_ident(pg_get_userbyid(relowner)) FROM pg_class WHERE oid = %s::regclass"
    return str(select(using, sql, table)[0][0])


@contextmanager
def _alone(using: str) -> Iterator[bool]:
    """Open a transaction with a short lock timeout; yield False if another process works here."""
    with transaction.atomic(using=using):
        run(using, f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        go_home(using)
        yield bool(select(using, "SELECT pg_try_advisory_xact_lock(%s)", _LOCK)[0][0])


def _moment(value: Any, using: str) -> datetime:
    moment = stored_moment(value, using)
    assert moment is not None
    return moment


class CannotPartition(DatabaseError):
    """The outbox's table can't be partitioned; the message has the reason and the remedy."""
