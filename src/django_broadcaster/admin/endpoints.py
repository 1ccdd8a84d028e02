"""The failing and disabled webhook endpoints."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.models import DELETION, LogEntry
from django.db import router, transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from django_broadcaster.dashboard.display import label, moment
from django_broadcaster.models import OutboxWebhookEndpoint
from django_broadcaster.redaction import masked

from .base import ReadOnlyAdmin


@admin.register(OutboxWebhookEndpoint)
class WebhookEndpointAdmin(ReadOnlyAdmin):
    """Failing and disabled webhook endpoints. Enabling one has a permission of its own."""

    list_display = ("id", "address", "backend", "state", "failing", "error_start")
    list_filter = (("disabled_at", admin.EmptyFieldListFilter),)
    search_fields = ("url",)
    fields = ("address", "backend", "state", "failing", "disabled", "last_error")
    readonly_fields = ("address", "state", "failing", "disabled")
    actions = ("enable",)

    def has_enable_permission(self, request: HttpRequest) -> bool:
        """Return True if the user may enable endpoints."""
        return request.user.has_perm("django_broadcaster.enable_webhookendpoint")

    @admin.action(description=_("Enable again"), permissions=["enable"])
    def enable(self, request: HttpRequest, queryset: QuerySet[OutboxWebhookEndpoint]) -> None:
        """Delete the endpoints' rows, so that relays send to them again within seconds."""
        user: Any = request.user  # not anonymous: the admin requires a login
        with transaction.atomic(using=router.db_for_write(OutboxWebhookEndpoint)):
            endpoints: Any = list(queryset)
            LogEntry.objects.log_actions(
                user.pk, endpoints, DELETION, change_message="Enabled again."
            )
            count, _rows = queryset.filter(pk__in=[each.pk for each in endpoints]).delete()
        text = _("Enabled again: %(count)d. Their dead letters can be retried now.")
        self.message_user(request, text % {"count": count})

    @admin.display(description=_("URL"))
    def address(self, endpoint: OutboxWebhookEndpoint) -> str:
        """Return the URL without a login."""
        return masked(endpoint.url)

    @admin.display(description=_("state"))
    def state(self, endpoint: OutboxWebhookEndpoint) -> SafeString:
        """Return a coloured label: failing or disabled."""
        if endpoint.disabled_at is None:
            return label("retry", _("failing"))
        return label("failed", _("disabled"))

    @admin.display(description=_("failing since"))
    def failing(self, endpoint: OutboxWebhookEndpoint) -> str:
        """Return the time of the first failure since the last success."""
        return moment(endpoint.failing_since)

    @admin.display(description=_("disabled at"))
    def disabled(self, endpoint: OutboxWebhookEndpoint) -> str:
        """Return the time at which the endpoint was disabled."""
        return moment(endpoint.disabled_at)

    @admin.display(description=_("last error"))
    def error_start(self, endpoint: OutboxWebhookEndpoint) -> str:
        """Return the beginning of the last error."""
        return endpoint.last_error[:80]
