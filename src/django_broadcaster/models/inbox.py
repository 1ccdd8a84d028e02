"""The consumer's side: events that handlers have processed."""

from __future__ import annotations

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class InboxEvent(models.Model):
    """An event that one handler has processed, written in the handler's own transaction."""

    id = models.BigAutoField(primary_key=True)
    identity = models.CharField(max_length=64, editable=False)
    handler = models.CharField(max_length=255)
    source = models.CharField(max_length=512)
    event_id = models.CharField(max_length=255)
    processed_at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name = _("inbox event")
        verbose_name_plural = _("inbox events")
        constraints = [models.UniqueConstraint(fields=["identity"], name="broadcaster_inbox")]

    def __str__(self) -> str:
        return f"{self.event_id} by {self.handler}"
