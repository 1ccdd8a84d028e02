"""Text compared exactly, on every database.

The types, sources and ids of CloudEvents differ by case. MariaDB and MySQL ignore case and spaces
at the end by default, and SQLite ignores case in LIKE. Columns that an index is over have a
collation of their own (`schema.ExactCharField`); the others are compared by these functions.
"""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.functions import Left
from django.db.models.lookups import Exact


def equals(column: str, text: str) -> Exact:
    """Return the condition that a column is exactly this text."""
    return Exact(_Bytes(column), text)


def starts_with(column: str, text: str) -> Exact:
    """Return the condition that a column begins with exactly this text, which is not empty."""
    return Exact(_Bytes(Left(column, len(text))), text)


class _Bytes(models.Func):
    """Text, compared as the bytes that it is."""

    template = "%(expressions)s"
    arity = 1
    output_field = models.TextField()

    def as_mysql(self, compiler: Any, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        template = "CAST(%(expressions)s AS BINARY)"
        return self.as_sql(compiler, connection, template=template, **context)
