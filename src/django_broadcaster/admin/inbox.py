"""The events that handlers have processed."""

from __future__ import annotations

from django.contrib import admin
from django.utils.translation import gettext_lazy as _

from django_broadcaster.dashboard.display import moment
from django_broadcaster.models import InboxEvent

from .base import ReadOnlyAdmin


@admin.register(InboxEvent)
class InboxEventAdmin(ReadOnlyAdmin):
    """The events that handlers have processed."""

    list_display = ("id", "handler", "source", "event_id", "processed")
    list_filter = ("processed_at",)
    search_fields = ("handler", "source", "event_id")
    fields = readonly_fields = list_display

    @admin.display(description=_("processed at"), ordering="processed_at")
    def processed(self, event: InboxEvent) -> str:
        """Return when the handler processed the event."""
        return moment(event.processed_at)
