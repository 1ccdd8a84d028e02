"""The replication slots of PostgreSQL that keep events until Kafka Connect has taken them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from django.db import connections

from .sql import select


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """The present state of a slot; figures are in bytes.

    `limit` is the WAL that it may retain, and `retained` what the server keeps for it. `lag` is the
    WAL that Kafka Connect has not confirmed, events or not. A slot that does not exist, or that the
    server has invalidated, keeps nothing: events that were not taken have to be replayed. A slot
    of another database of the server, or one that is still being created, does not exist here.
    """

    name: str
    limit: int
    exists: bool = False
    is_valid: bool = False
    is_active: bool = False
    lag: int = 0
    retained: int = 0

    @property
    def keeps_events(self) -> bool:
        """Whether events stay in the WAL until they are taken."""
        return self.exists and self.is_valid


_SLOTS = (
    "pg_replication_slots WHERE database = current_database() AND confirmed_flush_lsn IS NOT NULL"
)
"""The slots that decode this database. A slot without a position is still being created."""

_STATE = (
    "SELECT slot_name, COALESCE(wal_status, '') <> 'lost', active, "
    "COALESCE(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn), 0)::bigint, "
    "COALESCE(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint "
    f"FROM {_SLOTS} AND slot_name = ANY(%s)"
)


def slots(using: str, limits: Mapping[str, tuple[str, int]]) -> dict[str, Slot]:
    """Return the state of slots by the aliases of their backends; no query without any.

    `limits` has the name of each slot and its limit. Other databases than PostgreSQL have no slots.
    """
    if not limits or connections[using].vendor != "postgresql":
        return {}
    found = {
        row[0]: row[1:] for row in select(using, _STATE, [name for name, _ in limits.values()])
    }
    return {alias: _slot(name, limit, found.get(name)) for alias, (name, limit) in limits.items()}


def end_of_wal(using: str) -> str:
    """Return the position up to which the WAL has all transactions that have committed."""
    ((position,),) = select(using, "SELECT pg_current_wal_insert_lsn()::text")
    return str(position)


def has_confirmed(using: str, name: str, position: str) -> bool | None:
    """Return whether Kafka Connect has confirmed a slot up to a position; None without a slot."""
    sql = f"SELECT confirmed_flush_lsn >= %s::pg_lsn FROM {_SLOTS} AND slot_name = %s"
    return next((bool(row[0]) for row in select(using, sql, position, name)), None)


def _slot(name: str, limit: int, found: tuple[bool, bool, int, int] | None) -> Slot:
    if found is None:
        return Slot(name=name, limit=limit)
    is_valid, is_active, lag, retained = found
    return Slot(
        name=name,
        limit=limit,
        exists=True,
        is_valid=is_valid,
        is_active=is_active,
        lag=max(0, lag),
        retained=max(0, retained),
    )
