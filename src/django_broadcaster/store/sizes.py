"""How many bytes payloads take, so that what is read at a time is bounded by bytes, too.

Relays and archives read payloads as text. What that takes is not what it takes in the table, where
PostgreSQL compresses it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from django.db import connections

PAYLOADS = ("data", "data_binary", "sealed")
"""The columns of which one holds the payload; their order is that of the rows that are read."""

_JSON_SIZE = (
    "CASE WHEN pg_column_compression(data) IS NULL OR pg_column_size(data) > {most} "
    "THEN pg_column_size(data) ELSE octet_length(data::text) END"
)
"""PostgreSQL's size of JSON: what is stored compressed is read, unless it is too large anyway."""

SIZE = {
    "postgresql": f"COALESCE(octet_length(sealed), octet_length(data_binary), {_JSON_SIZE}, 0)",
    "mysql": "COALESCE(LENGTH(sealed), LENGTH(data_binary), LENGTH(data), 0)",
    "sqlite": "COALESCE(LENGTH(sealed), LENGTH(data_binary), LENGTH(CAST(data AS BLOB)), 0)",
}
"""The bytes of a row's payload, as SQL; those over `most` need not be exact."""


def portions(using: str, table: str, ids: Collection[int], most: int) -> Iterator[list[int]]:
    """Yield these ids in order, in portions whose payloads take about `most` bytes together.

    An event that takes more is a portion of its own. Ids without a row are left out.
    """
    portion: list[int] = []
    total = 0
    for row_id, size in _sizes(using, table, ids, most):
        if portion and total + size > most:
            yield portion
            portion, total = [], 0
        portion.append(row_id)
        total += size
    if portion:
        yield portion


def _sizes(using: str, table: str, ids: Collection[int], most: int) -> Iterable[tuple[int, int]]:
    if not ids:
        return []
    size = SIZE[connections[using].vendor].format(most=int(most))
    marks = ", ".join(["%s"] * len(ids))
    sql = f"SELECT id, {size} FROM {table} WHERE id IN ({marks}) ORDER BY id"
    with connections[using].cursor() as cursor:
        cursor.execute(sql, list(ids))
        return list(cursor.fetchall())


def size_of(row: Any) -> int:
    """Return the bytes of a row's payload that was read; of text, its characters."""
    return len(row.data or row.data_binary or row.sealed or b"")
