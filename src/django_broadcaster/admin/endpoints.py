"""The failing and disabled webhook endpoints."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.models import DELETION, LogEntry
from django.core.exceptions import PermissionDenied
from django.db import router, transaction
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponseBase
from django.http.response import HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from django_broadcaster.dashboard.display import NOTHING, label, moment, text_block
from django_broadcaster.dashboard.operations_audit import log_request
from django_broadcaster.dashboard.operations_form import counted
from django_broadcaster.dashboard.operations_views import kinds_for
from django_broadcaster.dashboard.pages import AdminPages
from django_broadcaster.models import OutboxEvent, OutboxWebhookEndpoint
from django_broadcaster.models.selection import EventSelection
from django_broadcaster.redaction import masked
from django_broadcaster.store import estimate_of, request_operation, span_of

from .base import ReadOnlyAdmin

ENABLE = "django_broadcaster_outboxwebhookendpoint_enable"


class EndpointPages(AdminPages):
    """The page that asks before an endpoint is enabled."""

    model = OutboxWebhookEndpoint
    folder = "outboxwebhookendpoint"

    def list_url(self) -> str:
        """Return the address of the list."""
        return self._list()[1]

    def enable(
        self, request: HttpRequest, endpoint: OutboxWebhookEndpoint, text: str, *, is_retry: bool
    ) -> TemplateResponse:
        """Return the page."""
        events = OutboxEvent.objects.using(router.db_for_write(OutboxEvent))
        dead = _dead_letters(endpoint)
        estimate = estimate_of(events, "retry", dead, span_of(events, dead)) if is_retry else None
        more = {
            "endpoint": endpoint,
            "text": text,
            "dead": estimate and counted(estimate.events, is_exact=estimate.is_exact),
        }
        above = (self._list(), (str(endpoint), self._url("change", endpoint.pk)))
        title = _("%(action)s?") % {"action": text}
        return self._page(request, "enable", title, more, above=above, crumb=str(text))


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
            operation = request_operation(
                events, "retry", _dead_letters(endpoint), by=user.get_username(),
                user_pk=str(user.pk),
            )  # fmt: skip
            log_request(user, operation)
            requested += operation.total
        text = _("Enabled again: %(count)d. Dead letters that will be retried: %(events)s.")
        said = {"count": len(endpoints), "events": f"{requested:,}"}
        self.message_user(request, text % said)

    # One endpoint

    def get_urls(self) -> list[URLPattern]:
        """Return the URLs of the admin's pages, and of the page that enables an endpoint."""
        view = self.admin_site.admin_view(self.enable_view)
        kept = super().get_urls()
        return [*kept[:-1], path("<int:pk>/<slug:action>/", view, name=ENABLE), kept[-1]]

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """Return the page of an endpoint, with a button for each action that is allowed."""
        buttons = [
            (f"../{name}/", text) for name, (_function, text) in self._allowed(request).items()
        ]
        context = {**(extra_context or {}), "buttons": buttons}
        return super().change_view(request, object_id, form_url, context)

    def enable_view(self, request: HttpRequest, pk: int, action: str) -> HttpResponseBase:
        """Ask for confirmation, then enable one endpoint, and retry its dead letters."""
        endpoint: Any = self.get_object(request, str(pk))
        if endpoint is None or action not in self.actions:
            raise Http404(f"endpoint {pk} is not failing, or has no action {action!r}")
        allowed = self._allowed(request)
        if action not in allowed or not self.has_view_permission(request, endpoint):
            raise PermissionDenied
        function, text = allowed[action]
        pages = EndpointPages(self.admin_site)
        if request.method != "POST":
            return pages.enable(request, endpoint, text, is_retry=action == "enable_and_retry")
        function(request, OutboxWebhookEndpoint.objects.filter(pk=pk))
        return HttpResponseRedirect(pages.list_url())

    def _allowed(self, request: HttpRequest) -> dict[str, tuple[Any, Any]]:
        """Return the actions that the user may run, by name: the function and the text."""
        found = {"enable": self.enable} if self.has_enable_permission(request) else {}
        if self.has_retry_permission(request):
            found["enable_and_retry"] = self.enable_and_retry
        return {name: (each, each.short_description) for name, each in found.items()}  # type: ignore[attr-defined]

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


def _dead_letters(endpoint: OutboxWebhookEndpoint) -> EventSelection:
    """Return the dead letters of an endpoint: their errors have its digest."""
    error = f"(endpoint {endpoint.name})"
    return EventSelection(backend=endpoint.backend, status="failed", error=error)


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
