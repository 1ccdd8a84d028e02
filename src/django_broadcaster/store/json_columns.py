"""JSON columns of each database: the maximum depth, and the form in which they are read back."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper

MARIADB_DEPTH: Final = 31
"""Maximum of nested arrays and objects in MariaDB's JSON, from its JSON_DEPTH_LIMIT."""

_STRING: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"')


def max_depth(connection: BaseDatabaseWrapper) -> int | None:
    """Return the maximum depth of the database's JSON, or None if MAX_DEPTH is lower."""
    return MARIADB_DEPTH if _is_mariadb(connection) else None


def growth(connection: BaseDatabaseWrapper, text: str) -> int:
    """Return the bytes by which compact JSON text is longer when it is read back.

    PostgreSQL and MySQL store parsed JSON, and return a space after each comma and colon.
    """
    if connection.vendor == "sqlite" or _is_mariadb(connection):
        return 0
    structure = _STRING.sub("", text)
    return structure.count(",") + structure.count(":")


def as_stored(text: str, connection: BaseDatabaseWrapper) -> str:
    """Return compact JSON text in the form in which this database returns it.

    PostgreSQL's `jsonb` orders the members of an object by the length of their names, adds spaces
    and writes numbers in full. https://www.postgresql.org/docs/current/datatype-json.html
    For MySQL, which has a similar form, the text is returned unchanged.
    """
    if connection.vendor != "postgresql":
        return text
    return _jsonb(json.loads(text, parse_int=_Number, parse_float=_Number))


class _Number(str):
    """A number in its original spelling."""

    __slots__ = ()


def _jsonb(value: Any) -> str:
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: (len(raw := name.encode()), raw))
        return "{" + ", ".join(f"{_string(name)}: {_jsonb(value[name])}" for name in names) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_jsonb, value)) + "]"
    if isinstance(value, _Number):
        number = Decimal(value)
        return format(number if number else abs(number), "f")  # `jsonb` has no negative zero
    return _string(value) if isinstance(value, str) else json.dumps(value)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _is_mariadb(connection: BaseDatabaseWrapper) -> bool:
    return connection.vendor == "mysql" and bool(getattr(connection, "mysql_is_mariadb", False))
