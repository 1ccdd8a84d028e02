"""The abstract model whose changes and events are always one transaction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Self

from django.db import models, router, transaction
from django.db.models.base import ModelBase

from .querysets import PublishingManager


class PublishingModel(models.Model):
    """An abstract model that saves in a transaction, and whose manager publishes bulk changes."""

    objects: ClassVar[PublishingManager[Self]] = PublishingManager()

    class Meta:
        abstract = True

    def save_base(
        self,
        raw: bool = False,
        force_insert: bool | tuple[ModelBase, ...] = False,
        force_update: bool = False,
        using: str | None = None,
        update_fields: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Save the row and its events in one transaction."""
        using = using or router.db_for_write(type(self), instance=self)
        with transaction.atomic(using, savepoint=False):
            super().save_base(raw, force_insert, force_update, using, update_fields, **kwargs)
