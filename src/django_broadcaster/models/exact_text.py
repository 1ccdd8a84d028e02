"""Text compared exactly, on every database.

The types, sources and ids of CloudEvents differ by case. MariaDB and MySQL ignore case and spaces
at the end by default, and SQLite ignores case in LIKE. Columns that an index is over have a
collation of their own (`schema.ExactCharField`); the others are compared by these functions.
"""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Value
from django.db.models.functions import Left, StrIndex
from django.db.models.lookups import Exact, GreaterThan


def equals(column: str, text: str) -> Exact:
    """Return the condition that a column is exactly this text."""
    return Exact(_Bytes(column), text)


def starts_with(column: str, text: str) -> Exact:
    """Return the condition that a column begins with exactly this text, which is not empty."""
    return Exact(_Bytes(Left(column, len(text))), text)


def contains(column: str, text: str) -> GreaterThan:
    """Return the condition that a column has exactly this text in it, which is not empty."""
    return GreaterThan(StrIndex(_Bytes(column), Value(text)), 0)


class _Bytes(models.Func):
    """Text, compared as the bytes that it is."""

    template = "%(expressions)s"
    arity = 1
    output_field = models.TextField()

    def as_mysql(self, compiler: Any, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        template = "CAST(%(expressions)s AS BINARY)"
        return self.as_sql(compiler, connection, template=template, **context)
