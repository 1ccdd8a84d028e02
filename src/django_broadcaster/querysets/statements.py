"""Statements that are no queries of Django's: definitions of tables, and questions to catalogs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import connections


def run(using: str, *statements: str) -> None:
    """Run statements without parameters."""
    with connections[using].cursor() as cursor:
        for sql in statements:
            cursor.execute(sql)


def change(using: str, sql: str, *params: Any) -> int:
    """Run a statement with parameters; return how many rows it changed."""
    with connections[using].cursor() as cursor:
        cursor.execute(sql, params)
        return int(cursor.rowcount)


def select(using: str, sql: str, *params: Any) -> Sequence[Any]:
    """Return the rows of a query."""
    with connections[using].cursor() as cursor:
        cursor.execute(sql, params)
        return list(cursor.fetchall())
