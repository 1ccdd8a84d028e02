"""The bytes of payloads, by which reads are limited.

Relays and archives read payloads as text. The size of the text is not the size in the table, where
PostgreSQL compresses it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from django.db import connections

PAYLOADS = ("data", "data_binary", "sealed")
"""The columns of which one has the payload, in the order of the rows that are read."""

_JSON_SIZE = (
    "CASE WHEN pg_column_compression(data) IS NULL OR pg_column_size(data) > {most} "
    "THEN pg_column_size(data) ELSE octet_length(data::text) END"
)
"""The size of JSON on PostgreSQL. Compressed data are decompressed unless they exceed `most`."""

SIZE = {
    "postgresql": f"COALESCE(octet_length(sealed), octet_length(data_binary), {_JSON_SIZE}, 0)",
    "mysql": "COALESCE(LENGTH(sealed), LENGTH(data_binary), LENGTH(data), 0)",
    "sqlite": "COALESCE(LENGTH(sealed), LENGTH(data_binary), LENGTH(CAST(data AS BLOB)), 0)",
}
"""The bytes of a row's payload, as SQL; sizes above `most` may be inexact."""


def portions(
    using: str, table: str, ids: Collection[int], most: int, *, size: str = ""
) -> Iterator[list[int]]:
    """Yield these ids in order, in portions of at most `most` bytes of payload.

    An event with more bytes is a portion of its own. Ids without a row are omitted. `size` is the
    SQL of another table's size, by default that of an event's payload.
    """
    portion: list[int] = []
    total = 0
    for row_id, length in _sizes(using, table, ids, most, size):
        if portion and total + length > most:
            yield portion
            portion, total = [], 0
        portion.append(row_id)
        total += length
    if portion:
        yield portion


def _sizes(
    using: str, table: str, ids: Collection[int], most: int, size: str
) -> Iterable[tuple[int, int]]:
    if not ids:
        return []
    size = size or SIZE[connections[using].vendor].format(most=int(most))
    marks = ", ".join(["%s"] * len(ids))
    sql = f"SELECT id, {size} FROM {table} WHERE id IN ({marks}) ORDER BY id"
    with connections[using].cursor() as cursor:
        cursor.execute(sql, list(ids))
        return list(cursor.fetchall())


def size_of(row: Any) -> int:
    """Return the size of a row's payload: the bytes of binary data, the characters of text."""
    return len(row.data or row.data_binary or row.sealed or b"")
