"""Billing's models in the admin. django-broadcaster registers its own models."""

from __future__ import annotations

from django.contrib import admin
from read_only import ReadOnly

from .models import Invoice, ReceivedEvent


@admin.register(Invoice)
class InvoiceAdmin(ReadOnly, admin.ModelAdmin):
    """Invoices, newest first."""

    list_display = ["id", "order", "total", "sent_at"]
    search_fields = ["order"]
    ordering = ["-id"]


@admin.register(ReceivedEvent)
class ReceivedEventAdmin(ReadOnly, admin.ModelAdmin):
    """The events of the shop, newest first."""

    list_display = ["id", "event_type", "key", "event_id", "received_at"]
    list_filter = ["event_type"]
    search_fields = ["event_id", "key"]
    ordering = ["-id"]
