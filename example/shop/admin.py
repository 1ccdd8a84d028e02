"""The shop in the admin; the outbox registers itself beside it."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest

from .models import Order, Parcel, Product, ReceivedEvent


class ReadOnly:
    """Rows that only the services and the handlers write: a change here would publish nothing."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody adds rows by hand."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """Nobody changes rows by hand."""
        return False


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    """Products are the one thing to edit."""

    list_display = ["name", "price"]


@admin.register(Order)
class OrderAdmin(ReadOnly, admin.ModelAdmin):
    """Orders, newest first."""

    list_display = ["id", "product", "quantity", "total", "status", "created_at"]
    list_filter = ["status"]
    ordering = ["-id"]


@admin.register(ReceivedEvent)
class ReceivedEventAdmin(ReadOnly, admin.ModelAdmin):
    """What reached the handlers, newest first."""

    list_display = ["id", "event_type", "key", "event_id", "received_at"]
    list_filter = ["event_type"]
    search_fields = ["event_id", "key"]
    ordering = ["-id"]


@admin.register(Parcel)
class ParcelAdmin(ReadOnly, admin.ModelAdmin):
    """Parcels, newest first."""

    list_display = ["tracking", "order", "packed_at"]
    ordering = ["-id"]
