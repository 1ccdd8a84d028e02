"""The events that handlers have processed."""

from __future__ import annotations

from django.contrib import admin

from django_broadcaster.models import InboxEvent

from .base import ReadOnlyAdmin


@admin.register(InboxEvent)
class InboxEventAdmin(ReadOnlyAdmin):
    """The events that handlers have processed."""

    list_display = ("id", "handler", "source", "event_id", "processed_at")
    list_filter = ("processed_at",)
    search_fields = ("handler", "source", "event_id")
    fields = list_display
