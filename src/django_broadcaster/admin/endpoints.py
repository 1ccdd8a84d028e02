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

from django_broadcaster.dashboard.display import NOTHING, label, moment, text_block
from django_broadcaster.dashboard.operations_audit import log_request
from django_broadcaster.dashboard.operations_views import kinds_for
from django_broadcaster.models import OutboxEvent, OutboxWebhookEndpoint
from django_broadcaster.models.selection import EventSelection
from django_broadcaster.redaction import masked
from django_broadcaster.store import request_operation

from .base import ReadOnlyAdmin


class StateFilter(admin.SimpleListFilter):
    """A filter by state: failing or disabled."""

    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """Return the states."""
        return [("failing", _("failing")), ("disabled", _("disabled"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the endpoints in the chosen state."""
        if self.value() not in ("failing", "disabled"):
            return queryset
        return queryset.filter(disabled_at__isnull=self.value() == "failing")


@admin.register(OutboxWebhookEndpoint)
class WebhookEndpointAdmin(ReadOnlyAdmin):
    """Failing and disabled webhook endpoints. Enabling one has a permission of its own."""

    list_display = ("id", "address", "name", "backend", "state", "failing", "error_start")
    list_filter = ("backend", StateFilter)
    search_fields = ("url", "^identity")
    search_help_text = _("URL, or the beginning of the endpoint's digest in an error")
    fields = ("address", "name", "backend", "state", "failing", "disabled", "error")
    readonly_fields = ("address", "name", "state", "failing", "disabled", "error")
    actions = ("enable", "enable_and_retry")

    def has_enable_permission(self, request: HttpRequest) -> bool:
        """Return True if the user may enable endpoints."""
        return request.user.has_perm("django_broadcaster.enable_webhookendpoint")

    @admin.action(description=_("Enable again"), permissions=["enable"])
    def enable(self, request: HttpRequest, queryset: QuerySet[OutboxWebhookEndpoint]) -> None:
        """Delete the endpoints' rows, so that relays send to them again within seconds."""
        endpoints = _enabled(request, queryset)
        text = _("Enabled again: %(count)d. Their dead letters can be retried now.")
        self.message_user(request, text % {"count": len(endpoints)})

    def has_retry_permission(self, request: HttpRequest) -> bool:
        """Return True if the user may enable endpoints and retry their dead letters."""
        return self.has_enable_permission(request) and "retry" in kinds_for(request.user)

    @admin.action(description=_("Enable and retry the dead letters"), permissions=["retry"])
    def enable_and_retry(
        self, request: HttpRequest, queryset: QuerySet[OutboxWebhookEndpoint]
    ) -> None:
        """Enable the endpoints, and request an operation that retries the dead letters of each.

        The error of a dead letter has the digest of its endpoint.
        """
        user: Any = request.user  # not anonymous: the admin requires a login
        events = OutboxEvent.objects.using(router.db_for_write(OutboxEvent))
        endpoints = _enabled(request, queryset)
        requested = 0
        for endpoint in endpoints:
            selection = EventSelection(
                backend=endpoint.backend, status="failed", error=f"(endpoint {endpoint.name})"
            )
            operation = request_operation(
                events, "retry", selection, by=user.get_username(), user_pk=str(user.pk)
            )
            log_request(user, operation)
            requested += operation.total
        text = _("Enabled again: %(count)d. Dead letters that will be retried: %(events)s.")
        said = {"count": len(endpoints), "events": f"{requested:,}"}
        self.message_user(request, text % said)

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

    @admin.display(description=_("digest"))
    def name(self, endpoint: OutboxWebhookEndpoint) -> str:
        """Return the digest by which errors name the endpoint."""
        return endpoint.name

    @admin.display(description=_("last error"))
    def error(self, endpoint: OutboxWebhookEndpoint) -> str:
        """Return the last error, with the beginning of the response."""
        return text_block(endpoint.last_error) if endpoint.last_error else NOTHING

    @admin.display(description=_("last error"))
    def error_start(self, endpoint: OutboxWebhookEndpoint) -> str:
        """Return the beginning of the last error."""
        return endpoint.last_error[:80]


def _enabled(
    request: HttpRequest, queryset: QuerySet[OutboxWebhookEndpoint]
) -> list[OutboxWebhookEndpoint]:
    """Delete the rows of endpoints, and log that; return the endpoints."""
    user: Any = request.user  # not anonymous: the admin requires a login
    with transaction.atomic(using=router.db_for_write(OutboxWebhookEndpoint)):
        endpoints: Any = list(queryset)
        LogEntry.objects.log_actions(user.pk, endpoints, DELETION, change_message="Enabled again.")
        queryset.filter(pk__in=[each.pk for each in endpoints]).delete()
    return list(endpoints)
