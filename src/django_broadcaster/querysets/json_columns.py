"""What each database makes of JSON: how deep it may be, and how much longer it comes back."""

from __future__ import annotations

import re
from typing import Final

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


def _is_mariadb(connection: BaseDatabaseWrapper) -> bool:
    return connection.vendor == "mysql" and bool(getattr(connection, "mysql_is_mariadb", False))
