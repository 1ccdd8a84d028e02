"""Webhook endpoints that fail."""

from __future__ import annotations

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from ..redaction import SHORT_DIGEST, masked, place_of


class OutboxWebhookEndpoint(models.Model):
    """A webhook endpoint that fails. One that works has no row: to delete a row enables it."""

    id = models.BigAutoField(primary_key=True)
    identity = models.CharField(
        max_length=64, editable=False, help_text=_("Digest of the backend and the URL.")
    )
    backend = models.CharField(max_length=64)
    url = models.CharField(max_length=2000)
    failing_since = models.DateTimeField(
        default=timezone.now, help_text=_("The first failure after its last success.")
    )
    disabled_at = models.DateTimeField(null=True, blank=True)
    last_error = models.TextField(blank=True, default="")

    class Meta:
        verbose_name = _("webhook endpoint")
        verbose_name_plural = _("failing webhook endpoints")
        permissions = [("enable_webhookendpoint", "Can enable webhook endpoints again")]
        constraints = [models.UniqueConstraint(fields=["identity"], name="broadcaster_endpoint")]

    def __str__(self) -> str:
        # The admin's log keeps this text when a user enables the endpoint again.
        return f"{place_of(masked(self.url))} of {self.backend}"

    @property
    def name(self) -> str:
        """The beginning of the digest, by which errors name the endpoint."""
        return self.identity[:SHORT_DIGEST]
