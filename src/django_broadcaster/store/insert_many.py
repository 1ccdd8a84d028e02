"""Insert many rows into the outbox by one statement, in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from .insert import insert_row
from .new_rows import COLUMNS, MOMENTS, UNTOUCHED, NewRow, insert_sql, text_of, values_of

_TYPES = {
    **dict.fromkeys(NewRow._fields, "text"),
    **dict.fromkeys(MOMENTS, "timestamptz"),
    **dict.fromkeys(("extensions", "data", "publisher_config"), "jsonb"),
    "data_binary": "bytea",
    "sealed": "bytea",
    "partition": "smallint",
    "max_retries": "smallint",
}
"""PostgreSQL's types."""

_ALL = (*COLUMNS, *UNTOUCHED)
_MARKS = f"({', '.join([*['%s'] * len(COLUMNS), *UNTOUCHED.values()])})"
"""Every column of a new row, and its values in SQL."""

_WRITERS: dict[str, Callable[[Any], str]] = {
    "timestamptz": text_of,
    "smallint": str,
    "bytea": lambda data: f"\\x{data.hex()}",
}
"""The functions that write other values than text, by type."""


def insert_rows(connection: BaseDatabaseWrapper, rows: Sequence[NewRow]) -> int:
    """Write rows, their ids ascending; return how many are new.

    Of rows with one identity only the first is written, and none if the identity exists already.
    """
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(*from_arrays(rows))
        elif connection.vendor == "sqlite":
            # It has no round trips, and limits the parameters of a statement.
            statement = insert_sql("sqlite", _ALL, f"VALUES {_MARKS}", unique=_is_unique(rows))
            cursor.executemany(statement, [values_of(row, connection) for row in rows])
        else:
            values = f"VALUES {', '.join([_MARKS] * len(rows))}"
            statement = insert_sql(connection.vendor, _ALL, values, unique=_is_unique(rows))
            cursor.execute(statement, [each for row in rows for each in values_of(row, connection)])
        return int(cursor.rowcount)


def insert_new(connection: BaseDatabaseWrapper, rows: Sequence[NewRow]) -> list[tuple[int, NewRow]]:
    """Write rows like `insert_rows`, and return the new ones with their ids.

    Only PostgreSQL returns the ids of the rows of one statement; elsewhere each row takes one.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(*from_arrays(rows, returning="id, identity"))
            found = _matched(rows, cursor.fetchall())
    else:
        found = [(insert_row(connection, row), row) for row in rows]
    return [(row_id, row) for row_id, row in found if row_id is not None]


def _matched(
    rows: Iterable[NewRow], inserted: Iterable[tuple[int, str | None]]
) -> list[tuple[int | None, NewRow]]:
    """Return each row with its id, or None; `inserted` are those that are new, in order."""
    left = iter(inserted)
    upcoming = next(left, None)
    matched: list[tuple[int | None, NewRow]] = []
    for row in rows:
        if upcoming is None or upcoming[1] != row.identity:
            matched.append((None, row))
        else:
            matched.append((upcoming[0], row))
            upcoming = next(left, None)
    return matched


def _is_unique(rows: Iterable[NewRow]) -> bool:
    return any(row.identity is not None for row in rows)


# PostgreSQL: an array for each column that is not the same in all rows. The arrays are written as
# text here, which every driver accepts, in a tenth of the time that psycopg takes for a list.


def from_arrays(
    rows: Sequence[NewRow], *, only_if: str = "", returning: str = ""
) -> tuple[str, list[Any]]:
    """Return a statement that writes the rows, and its parameters.

    Args:
        rows: The rows.
        only_if: A condition in SQL without which none is written.
        returning: The columns that it returns of each new row.
    """
    constants: list[str | None] = []
    arrays: dict[str, str] = {}
    for name, values in zip(NewRow._fields, zip(*rows, strict=True), strict=True):
        # The array of event ids is always there: its length is the number of rows.
        if name != "event_id" and values.count(values[-1]) == len(values):
            constants += _texts(name, values[:1])
        else:
            arrays[name] = text_array(_texts(name, values))
    if "created_at" not in arrays:
        constants.append(text_of(rows[0].created_at))  # as `updated_at`
    select = _select(tuple(arrays))
    if only_if:
        select += f" WHERE {only_if}"
    statement = insert_sql("postgresql", _ALL, select, unique=_is_unique(rows), returning=returning)
    return statement, [*constants, *arrays.values()]


@lru_cache
def _select(varying: tuple[str, ...]) -> str:
    columns = [f'v."{name}"' if name in varying else f"%s::{_TYPES[name]}" for name in _TYPES]
    columns.append('v."created_at"' if "created_at" in varying else "%s::timestamptz")
    arrays = ", ".join(f"%s::{_TYPES[name]}[]" for name in varying)
    names = ", ".join(f'"{name}"' for name in varying)
    return (
        f"SELECT {', '.join([*columns, *UNTOUCHED.values()])} FROM unnest({arrays}) AS v ({names})"
    )


def _texts(name: str, values: Sequence[Any]) -> Sequence[str | None]:
    """Return the values of a column as PostgreSQL reads them."""
    write = _WRITERS.get(_TYPES[name])
    if write is None:
        return values
    return [None if value is None else write(value) for value in values]


def text_array(texts: Sequence[str | None]) -> str:
    """Return PostgreSQL's text for an array, which every driver sends unchanged."""
    if None not in texts:
        joined = "\0".join(texts)  # type: ignore[arg-type]
        if joined.count("\0") == len(texts) - 1:  # no text has this character of its own
            items = _escaped(joined).replace("\0", '","')
            return f'{{"{items}"}}' if texts else "{}"
    return "{" + ",".join("NULL" if each is None else f'"{_escaped(each)}"' for each in texts) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
