"""The dashboard's entry in the admin."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.urls import URLPattern

from django_broadcaster.dashboard.views import VIEW, DashboardViews
from django_broadcaster.models import OutboxDashboard

from .base import ReadOnlyAdmin


@admin.register(OutboxDashboard)
class DashboardAdmin(ReadOnlyAdmin):
    """The entry of the dashboard, for users who may view outbox events."""

    ordering = sortable_by = ("backend",)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return True if the user may view outbox events."""
        return request.user.has_perm(VIEW)

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Return True if the index lists the dashboard for the user."""
        return self.has_view_permission(request)

    def get_urls(self) -> list[URLPattern]:
        """Return the URLs of the dashboard."""
        return DashboardViews(self.admin_site).urls()
