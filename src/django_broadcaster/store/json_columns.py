"""What each database makes of JSON: how deep it may be, and how much longer it comes back."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper

MARIADB_DEPTH: Final = 31
"""Levels of arrays and objects in MariaDB's JSON, by its JSON_DEPTH_LIMIT."""

_STRING: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"')


def max_depth(connection: BaseDatabaseWrapper) -> int | None:
    """Return the levels that the database holds, or None if that is no less than MAX_DEPTH."""
    return MARIADB_DEPTH if _is_mariadb(connection) else None


def growth(connection: BaseDatabaseWrapper, text: str) -> int:
    """Return the bytes by which compact JSON text comes back longer from the database.

    PostgreSQL and MySQL keep JSON parsed, and write it with a space after each comma and colon.
    """
    if connection.vendor == "sqlite" or _is_mariadb(connection):
        return 0
    structure = _STRING.sub("", text)
    return structure.count(",") + structure.count(":")


def as_stored(text: str, connection: BaseDatabaseWrapper) -> str:
    """Return compact JSON text as it comes back from a column of this database.

    PostgreSQL's `jsonb` orders the members of an object by the length of their names, spaces what
    it writes, and has numbers in full. https://www.postgresql.org/docs/current/datatype-json.html
    MySQL does alike in its own way, which is not followed: there text comes back as it is given.
    """
    if connection.vendor != "postgresql":
        return text
    return _jsonb(json.loads(text, parse_int=_Number, parse_float=_Number))


class _Number(str):
    """A number as it was written."""

    __slots__ = ()


def _jsonb(value: Any) -> str:
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: (len(raw := name.encode()), raw))
        return "{" + ", ".join(f"{_string(name)}: {_jsonb(value[name])}" for name in names) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_jsonb, value)) + "]"
    if isinstance(value, _Number):
        number = Decimal(value)
        return format(number if number else abs(number), "f")  # there is no negative zero
    return _string(value) if isinstance(value, str) else json.dumps(value)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _is_mariadb(connection: BaseDatabaseWrapper) -> bool:
    return connection.vendor == "mysql" and bool(getattr(connection, "mysql_is_mariadb", False))
