"""What operators have the relays do in the background."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from ..schema import PartialIndex
from ..states import ACTIVE, OperationKind, OperationState
from .operation_managers import OperationQuerySet
from .selection import EventSelection


class OutboxOperation(models.Model):
    """Something that the relays do to many events in the background, and how far it is.

    `selection` is an `EventSelection` as JSON. Of the ids behind `start` up to `last`, which was
    the newest when it was requested, those up to `position` have been seen to.
    """

    id = models.BigAutoField(primary_key=True)
    kind = models.CharField(max_length=16, choices=OperationKind.choices)
    selection = models.JSONField(default=dict)
    state = models.CharField(
        max_length=16, choices=OperationState.choices, default=OperationState.WAITING
    )
    requested_by = models.CharField(max_length=255, blank=True, default="")
    user_pk = models.CharField(
        max_length=255, blank=True, default="", help_text=_("Key of the user, if it was one.")
    )
    stopped_by = models.CharField(max_length=255, blank=True, default="")
    requested_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    moved_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    start = models.BigIntegerField()
    position = models.BigIntegerField()
    last = models.BigIntegerField()
    total = models.BigIntegerField(help_text=_("Events to move, counted when it was requested."))
    total_is_exact = models.BooleanField(help_text=_("No where counting would have taken long."))
    done = models.BigIntegerField(default=0)
    left_alone = models.BigIntegerField(
        default=0, help_text=_("Events whose state had changed when it was their turn.")
    )
    failures = models.PositiveSmallIntegerField(
        default=0, help_text=_("How often in a row the database refused the next step.")
    )
    not_before = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True, default="")

    # Typed as the queryset whose methods it has: pyright does not follow `as_manager`.
    objects: ClassVar[OperationQuerySet] = OperationQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        verbose_name = _("operation")
        verbose_name_plural = _("operations")
        indexes = [
            PartialIndex(
                name="broadcaster_active",
                fields=["id"],
                where="state IN ('waiting', 'running')",
                prefix=("state",),
            )
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.described}"

    @property
    def described(self) -> str:
        """The selection in words."""
        try:
            return str(EventSelection.from_json(self.selection))
        except (TypeError, ValueError):  # of a newer version
            return str(self.selection)

    @property
    def is_active(self) -> bool:
        """Whether the relays have still to work on it."""
        return self.state in ACTIVE

    @property
    def is_due(self) -> bool:
        """Whether the next step may be tried now."""
        return self.not_before is None or self.not_before <= timezone.now()

    @property
    def progress(self) -> float:
        """How much of it is done, from 0 to 1: by events where they are counted, else by ids."""
        if self.state == OperationState.DONE:
            return 1.0
        if self.total_is_exact and self.total:
            return min(1.0, (self.done + self.left_alone) / self.total)
        return (self.position - self.start) / max(1, self.last - self.start)
