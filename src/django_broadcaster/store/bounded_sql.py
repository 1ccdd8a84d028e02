"""Queries of rows with payloads, limited by bytes and by number.

PostgreSQL's driver keeps a whole result in memory, so the query itself has the limit. Other
databases send row by row, and rows above the limit are discarded.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from .relay_sql import RelaySQL
from .sizes import PAYLOADS, SIZE
from .sql import JSON_COLUMNS


class BoundedSQL(RelaySQL):
    """Queries of rows whose payloads are limited by bytes."""

    def _select_within(
        self,
        names: Sequence[str],
        source: str,
        params: Sequence[Any],
        *,
        order: str,
        most: int,
        each: int | None,
    ) -> tuple[list[Any], list[int], bool]:
        """Read rows until their payloads reach a limit.

        Args:
            names: The columns to read.
            source: The rest of the query, from FROM on.
            params: The parameters of `source`.
            order: The columns by which `source` is ordered.
            most: Bytes of payload. The row that reaches them is the last one, so the result has
                at least one row.
            each: If given, the result ends before the first payload with more bytes than this.
                This limit is cheaper than `most`.

        Returns:
            The rows, the bytes of each one's payload, and True if the limit excluded rows.
        """
        if not self._postgres:
            sql = f"SELECT {', '.join(names)} {source}"
            return self._stream(sql, params, names, most, few=each is None)
        query = self._bounded(names, source, order, most, each)
        found = self._select(query, params, is_repeated=each is not None)
        sizes = [row[-1] for row in found]
        if each is None:
            return found, sizes, sum(sizes) >= most
        end = next((place for place, size in enumerate(sizes) if size > each), len(sizes))
        return found[:end], sizes[:end], end < len(sizes)

    @staticmethod
    @lru_cache(maxsize=32)  # to write it takes a tenth of the time of a small fetch
    def _bounded(names: Sequence[str], source: str, order: str, most: int, each: int | None) -> str:
        """Return the query for PostgreSQL. Its last column is the size of the payload."""
        keys = ", ".join(f"{name} AS _{name}" for name in order.split(", "))
        ordered = ", ".join(f"_{name}" for name in order.split(", "))
        size = SIZE["postgresql"].format(most=most if each is None else each)
        rows = f"(SELECT {keys}, {', '.join(names)}, {size} AS _size {source}) AS r"
        read = [name.rpartition(".")[2] for name in names]
        read = [f"{name}::text" if name in JSON_COLUMNS else name for name in read]
        if each is not None:
            fits = f"CASE WHEN _size <= {each} THEN"
            read = [
                f"{fits} {name} END" if name.partition(":")[0] in PAYLOADS else name
                for name in read
            ]
            return f"SELECT {', '.join(read)}, _size FROM {rows} ORDER BY {ordered}"
        before = f"SUM(_size) OVER (ORDER BY {ordered} ROWS UNBOUNDED PRECEDING) - _size"
        summed = f"(SELECT r.*, {before} AS _before FROM {rows}) AS s"
        wanted = f"WHERE _before < {most} ORDER BY {ordered}"
        return f"SELECT {', '.join(read)}, _size FROM {summed} {wanted}"

    def _stream(
        self, sql: str, params: Sequence[Any], names: Sequence[str], most: int, *, few: bool
    ) -> tuple[list[Any], list[int], bool]:
        """Read rows as the server sends them; one at a time if `few`, for large payloads."""
        places = [names.index(name) for name in PAYLOADS]
        at_a_time = 1 if few else 10
        rows: list[Any] = []
        sizes: list[int] = []
        left = most
        with self._stream_cursor() as cursor:
            cursor.execute(sql, params)
            while left > 0 and (some := cursor.fetchmany(at_a_time)):
                for row in some:
                    if left <= 0:
                        break
                    payload = next((row[place] for place in places if row[place] is not None), b"")
                    rows.append(row)
                    sizes.append(len(payload))
                    left -= sizes[-1]
            while self._connection.vendor == "mysql" and cursor.fetchmany(at_a_time):
                pass  # otherwise, closing the cursor would read all other rows at once
        return rows, sizes, left <= 0

    def _stream_cursor(self) -> Any:
        """Return a cursor that reads row by row; the default of MySQL's driver reads all rows."""
        if self._connection.vendor != "mysql":
            return self._connection.cursor()
        from django.db.backends.mysql.base import CursorWrapper

        connection: Any = self._connection
        connection.ensure_connection()
        raw = connection.connection.cursor(connection.Database.cursors.SSCursor)
        return connection._prepare_cursor(CursorWrapper(raw))
