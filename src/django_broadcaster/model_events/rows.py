"""Read the declared fields of rows, as the database has them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from django.db import connections, models

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
) -> dict[Any, Row]:
    """Return the rows with these primary keys that exist, by primary key.

    With `lock`, no other transaction can change them until the end of this one.
    """
    # A queryset of no manager, since a manager may leave rows out.
    rows: models.QuerySet[Any] = models.QuerySet(model=model, using=using).filter(pk__in=pks)
    if lock:
        features = connections[using].features
        rows = rows.select_for_update(no_key=features.has_select_for_no_key_update)
    found = rows.values_list("pk", *names)
    return {pk: dict(zip(names, values, strict=True)) for pk, *values in found}


def chunks_of(pks: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield the primary keys in chunks of one statement each."""
    for start in range(0, len(pks), CHUNK):
        yield pks[start : start + CHUNK]
