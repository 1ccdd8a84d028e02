"""Operations in the background: their list and permissions."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.urls import URLPattern, path
from django.utils.functional import cached_property
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_GET

from django_broadcaster.dashboard.display import label, moment
from django_broadcaster.dashboard.operations_views import OperationViews, kinds_for, may_view
from django_broadcaster.models import OutboxOperation

from .base import ReadOnlyAdmin


@admin.register(OutboxOperation)
class OperationAdmin(ReadOnlyAdmin):
    """Operations in the background: their list, and the pages to request, follow and stop one."""

    list_display = (
        *("id", "what", "about", "state_label", "progress", "requested_by", "requested"),
    )
    list_filter = ("state", "kind")

    class Media:
        css = {"all": ["django_broadcaster/operations.css"]}

    @cached_property
    def _views(self) -> OperationViews:
        return OperationViews(self.admin_site)

    def get_urls(self) -> list[URLPattern]:
        """Return the URLs of the admin's pages, of an operation's progress and of its stop."""
        name = "django_broadcaster_outboxoperation_{}"
        views = {"progress": require_GET(self._views.progress), "stop": self._views.stop}
        more = [
            path(f"<pk>/{each}/", self.admin_site.admin_view(view), name=name.format(each))
            for each, view in views.items()
        ]
        return [*more, *super().get_urls()]

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return True if the user may view operations, or request some."""
        return may_view(request.user)

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Return True if the index lists operations for the user."""
        return may_view(request.user)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return True if the user may request any kind of operation."""
        return bool(kinds_for(request.user))

    def add_view(self, request: HttpRequest, *args: Any, **more: Any) -> Any:
        """Return the form or its confirmation."""
        return self._views.new(request)

    def change_view(self, request: HttpRequest, object_id: str, *args: Any, **more: Any) -> Any:
        """Return the page of an operation."""
        return self._views.detail(request, object_id)

    @admin.display(description=_("operation"), ordering="kind")
    def what(self, operation: OutboxOperation) -> str:
        """Return the kind of operation."""
        return operation.get_kind_display()

    @admin.display(description=_("events"))
    def about(self, operation: OutboxOperation) -> str:
        """Return the selected events in words."""
        return operation.described

    @admin.display(description=_("state"))
    def state_label(self, operation: OutboxOperation) -> SafeString:
        """Return the state as a coloured label."""
        return label(operation.state, operation.get_state_display())

    @admin.display(description=_("progress"))
    def progress(self, operation: OutboxOperation) -> str:
        """Return the events done and the total."""
        about = "" if operation.total_is_exact else "~"
        return f"{operation.done:,} / {about}{operation.total:,}"

    @admin.display(description=_("requested"))
    def requested(self, operation: OutboxOperation) -> str:
        """Return the time at which the operation was requested."""
        return moment(operation.requested_at)
