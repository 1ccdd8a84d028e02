"""The queryset and the manager that publish the events of bulk changes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, TypeVar

from django.db import NotSupportedError, connections, models, transaction

from .declarations import ModelEvents, model_events
from .publication import Block, Keywords, forget_rows, gathered, is_suppressed, publish
from .rows import CHUNK, Among, Row, chunks_of, read_rows

M = TypeVar("M", bound=models.Model)


class PublishingQuerySet(models.QuerySet[M]):
    """A queryset whose methods publish the events of its model, in the transaction of the change.

    Each method opens a transaction if none is open.
    """

    def create(self, **kwargs: Any) -> M:
        """Save a new object and its event in one transaction."""
        with transaction.atomic(self._db_for_write(), savepoint=False):
            return super().create(**kwargs)

    def bulk_create(
        self,
        objs: Iterable[M],
        batch_size: int | None = None,
        ignore_conflicts: bool = False,
        update_conflicts: bool = False,
        update_fields: Collection[str] | None = None,
        unique_fields: Collection[str] | None = None,
    ) -> list[M]:
        """Insert objects, and publish `created` for each.

        Raises:
            NotSupportedError: Conflicts are ignored or updated, or the database does not return
                primary keys; so which rows are new or updated can't be known.
        """
        objs = list(objs)
        using = self._db_for_write()
        published = self._published()
        declared = [each for each in published if each.created]
        updates = any(each.updated and each.saves(update_fields) for each in published)
        if (declared and (ignore_conflicts or update_conflicts)) or (updates and update_conflicts):
            raise NotSupportedError(
                f"bulk_create of {self.model._meta.label} with ignore_conflicts or "
                "update_conflicts can't publish events, since databases do not return which rows "
                "are new or updated; use suppressed() and publish the events yourself"
            )
        if declared:
            self._check_returns_keys(objs, using)
        if update_conflicts:
            self._forget()
        with transaction.atomic(using, savepoint=False):
            found = super().bulk_create(
                objs, batch_size, ignore_conflicts, update_conflicts, update_fields, unique_fields
            )
            for each in declared:
                publish(_created(each, [obj.pk for obj in found], using), using)
        return found

    def bulk_update(
        self, objs: Iterable[M], fields: Iterable[str], batch_size: int | None = None
    ) -> int:
        """Update the given fields of objects by `update`, in batches of 500 or less.

        Its batches are in the order of the primary keys, in which every change locks rows.
        """
        objs, fields = list(objs), list(fields)
        if any(each.updated and each.saves(fields) for each in self._published()):
            batch_size = CHUNK if batch_size is None else min(batch_size, CHUNK)
            if all(obj.pk is not None for obj in objs):  # otherwise Django raises an error
                to_python = self.model._meta.pk.to_python
                objs.sort(key=lambda obj: to_python(obj.pk))
        return super().bulk_update(objs, fields, batch_size)

    def update(self, **kwargs: Any) -> int:
        """Update the rows, and publish `updated` for each with another value in a declared field.

        Its rows are locked and read in the order of their primary keys, 500 at a time; updated by
        one statement, which evaluates the queryset's conditions once; and read again.
        """
        self._forget()
        declared = [each for each in self._published() if each.updated and each.saves(kwargs)]
        if not declared or self.query.is_sliced or self.query.combinator:  # the last two raise
            return super().update(**kwargs)
        using = self._db_for_write()
        names = {name for each in declared for name in each.names}
        with transaction.atomic(using, savepoint=False):
            pks = self._pks(using)
            old: dict[Any, Row] = {}
            for chunk in chunks_of(pks):
                old |= read_rows(self.model, chunk, names, using, lock=True)
            # Rows that meet the conditions only now have not been read.
            known: PublishingQuerySet[M] = self.using(using).filter(Among(models.F("pk"), pks))
            count = super(PublishingQuerySet, known).update(**kwargs)
            for chunk in chunks_of(pks):
                new = read_rows(self.model, chunk, names, using, lock=True)
                publish(
                    [
                        each.event(each.updated, new[pk])
                        for pk in chunk
                        for each in declared
                        if each.updated and pk in new and each.differ(old.get(pk), new[pk])
                    ],
                    using,
                )
        self._result_cache = None
        return count

    update.alters_data = True  # type: ignore[attr-defined]

    def delete(self) -> tuple[int, dict[str, int]]:
        """Delete the rows, and write the events of them and their cascades by one call.

        Its rows are locked and read beforehand, 500 at a time in the order of their primary keys;
        those of cascades one by one.
        """
        using = self._db_for_write()
        with transaction.atomic(using, savepoint=False), gathered(using) as block:
            self._lock(block)
            found = super(PublishingQuerySet, self.using(using)).delete()
        self._result_cache = None
        return found

    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]

    def _lock(self, block: Block) -> None:
        """Lock and read the rows that are there now, for the deletion in this block.

        Rows that meet the conditions only later are deleted, too, and read one by one.
        """
        declared = [
            each for each in self._published() if each.deleted and each.is_table_of(self.model)
        ]
        query, has_values = self.query, getattr(self, "_fields", None) is not None
        is_refused = query.is_sliced or query.combinator or query.distinct_fields or has_values
        if not declared or is_refused:  # Django raises an error for the latter
            return
        pks = self._pks(block.using)
        for each in declared:
            rows = block.locked.setdefault(each.model, {})
            for chunk in chunks_of(pks):
                rows |= read_rows(
                    each.model, chunk, each.names, block.using, lock=True, deletes=True
                )

    def _pks(self, using: str) -> list[Any]:
        """Return the primary keys of the rows, in the order in which every change locks them."""
        found = self.using(using).values_list("pk", flat=True)
        # Django's own statements drop it; here DISTINCT may refuse it, and it may leave rows out.
        found.query.select_for_update = False
        if not self.query.distinct_fields:  # these choose rows by the queryset's own order
            found = found.order_by("pk")
        return list(dict.fromkeys(found))

    def _db_for_write(self) -> str:
        self._for_write = True  # without this, `db` would be where the router reads
        return self.db

    def _forget(self) -> None:
        """Forget the rows that a deletion around this change has read."""
        for each in model_events.of(self.model):
            forget_rows(each.model, self._db_for_write())

    def _published(self) -> list[ModelEvents]:
        return [] if is_suppressed(self.model) else model_events.of(self.model)

    def _check_returns_keys(self, objs: Collection[M], using: str) -> None:
        """Raise NotSupportedError if the primary keys of new rows will not be known."""
        features = connections[using].features
        if not features.can_return_rows_from_bulk_insert and any(obj.pk is None for obj in objs):
            raise NotSupportedError(
                f"bulk_create of {self.model._meta.label} can't publish events, since the database "
                "does not return the primary keys; save the objects one by one, or set their "
                "primary keys"
            )


class PublishingManager(models.Manager[M]):
    """A manager whose querysets publish the events of the model."""

    _queryset_class = PublishingQuerySet


def _created(declared: ModelEvents, given: list[Any], using: str) -> list[Keywords]:
    """Return the events of new rows; their primary keys may be given as text."""
    pks = [declared.model._meta.pk.to_python(pk) for pk in given]
    rows = {
        pk: row
        for chunk in chunks_of(pks)
        for pk, row in read_rows(declared.model, chunk, declared.names, using, lock=False).items()
    }
    return [declared.event(declared.created, rows[pk]) for pk in pks if declared.created]
