"""Text compared exactly, on every database.

The types, sources and ids of CloudEvents are case-sensitive. By default MariaDB and MySQL ignore
case and trailing spaces, and SQLite ignores case in LIKE. Indexed columns have a collation of their
own (`schema.ExactCharField`); these functions compare the others.
"""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Value
from django.db.models.functions import Left, StrIndex
from django.db.models.lookups import Exact, GreaterThan


def equals(column: str, text: str) -> Exact:
    """Return the condition that a column equals this text exactly."""
    return Exact(_Bytes(column), text)


def starts_with(column: str, text: str) -> Exact:
    """Return the condition that a column begins with this text, which must not be empty."""
    return Exact(_Bytes(Left(column, len(text))), text)


def contains(column: str, text: str) -> GreaterThan:
    """Return the condition that a column contains this text, which must not be empty."""
    return GreaterThan(StrIndex(_Bytes(column), Value(text)), 0)


class _Bytes(models.Func):
    """Text, compared by its bytes."""

    template = "%(expressions)s"
    arity = 1
    output_field = models.TextField()

    def as_mysql(self, compiler: Any, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        template = "CAST(%(expressions)s AS BINARY)"
        return self.as_sql(compiler, connection, template=template, **context)
