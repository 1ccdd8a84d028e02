"""Operations that the relays run in the background."""

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
    """A change of many events that the relays make in the background, and its progress.

    `selection` is an `EventSelection` as JSON. The operation covers the ids after `start` up to
    `last`, the newest when it was requested. Those up to `position` are done.
    """

    id = models.BigAutoField(primary_key=True)
    kind = models.CharField(max_length=16, choices=OperationKind.choices)
    selection = models.JSONField(default=dict)
    state = models.CharField(
        max_length=16, choices=OperationState.choices, default=OperationState.WAITING
    )
    requested_by = models.CharField(max_length=255, blank=True, default="")
    user_pk = models.CharField(
        max_length=255,
        blank=True,
        default="",
        help_text=_("Key of the user, if any."),
    )
    stopped_by = models.CharField(max_length=255, blank=True, default="")
    requested_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    moved_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    start = models.BigIntegerField()
    position = models.BigIntegerField()
    last = models.BigIntegerField()
    total = models.BigIntegerField(help_text=_("Events to change, counted at the request."))
    total_is_exact = models.BooleanField(help_text=_("No if counting would have taken too long."))
    done = models.BigIntegerField(default=0)
    left_alone = models.BigIntegerField(
        default=0, help_text=_("Events whose state had changed before their turn.")
    )
    forget_inbox = models.JSONField(
        default=list, blank=True, help_text=_("Names of the handlers that a replay runs again.")
    )
    skipped = models.BigIntegerField(
        default=0, help_text=_("Replayed events that every handler had processed.")
    )
    failures = models.PositiveSmallIntegerField(
        default=0, help_text=_("Consecutive failures of the next step in the database.")
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
        """The selection as text."""
        try:
            return str(EventSelection.from_json(self.selection))
        except (TypeError, ValueError):  # of a newer version
            return str(self.selection)

    @property
    def is_active(self) -> bool:
        """Whether the operation is unfinished."""
        return self.state in ACTIVE

    @property
    def is_due(self) -> bool:
        """Whether the next step may be attempted now."""
        return self.not_before is None or self.not_before <= timezone.now()

    @property
    def progress(self) -> float:
        """The part that is done, from 0 to 1: by events if they are counted, else by ids."""
        if self.state == OperationState.DONE:
            return 1.0
        if self.total_is_exact and self.total:
            return min(1.0, (self.done + self.left_alone) / self.total)
        return (self.position - self.start) / max(1, self.last - self.start)
