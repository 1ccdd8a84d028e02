"""Read the declared fields of rows, as the database has them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.lookups import In
from django.db.models.sql.compiler import SQLCompiler

CHUNK: Final = 500
"""The rows of a statement. SQLite takes 999 parameters, some of which a queryset has itself."""

Row = dict[str, Any]
"""The values of a row by the names of their attributes, such as `customer_id`."""


def read_rows(
    model: type[models.Model],
    pks: Collection[Any],
    names: Collection[str],
    using: str,
    *,
    lock: bool,
    deletes: bool = False,
) -> dict[Any, Row]:
    """Return the rows with these primary keys that exist, by primary key.

    With `lock`, no other transaction can change them until the end of this one. They are locked in
    the order of the primary keys, so that two calls do not wait for each other.

    Args:
        model: The model, whose managers are not used.
        pks: The primary keys, as Python has them.
        names: The attributes to read.
        using: The alias of the database.
        lock: Lock the rows, as an UPDATE does.
        deletes: Lock them as a DELETE does. Otherwise PostgreSQL would have to make the lock
            stronger, which deadlocks with a transaction that refers to the row and changes it.
    """
    # A queryset of no manager, since a manager may leave rows out.
    rows: models.QuerySet[Any] = models.QuerySet(model=model, using=using).filter(pk__in=pks)
    if lock:
        no_key = connections[using].features.has_select_for_no_key_update and not deletes
        rows = rows.select_for_update(no_key=no_key).order_by("pk")
    found = rows.values_list("pk", *names)
    return {pk: dict(zip(names, values, strict=True)) for pk, *values in found}


def chunks_of(pks: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield the primary keys in chunks of one statement each."""
    for start in range(0, len(pks), CHUNK):
        yield pks[start : start + CHUNK]


class Among(In):
    """A condition that a field has one of any number of values, such as `Among(F("pk"), pks)`.

    PostgreSQL and SQLite limit the parameters of a statement, so there all values are one.
    """

    def as_postgresql(
        self, compiler: SQLCompiler, connection: BaseDatabaseWrapper
    ) -> tuple[str, list[Any]]:
        """Compare with an array."""
        lhs, params = self.process_lhs(compiler, connection)
        _, values = self.process_rhs(compiler, connection)
        return f"{lhs} = ANY(%s)", [*params, list(values)]

    def as_sqlite(
        self, compiler: SQLCompiler, connection: BaseDatabaseWrapper
    ) -> tuple[str, list[Any]]:
        """Compare with the values of a JSON list."""
        lhs, params = self.process_lhs(compiler, connection)
        _, values = self.process_rhs(compiler, connection)
        return f"{lhs} IN (SELECT value FROM json_each(%s))", [*params, json.dumps(values)]  # noqa: S608  # no values
