"""The shop's models in the admin. django-broadcaster registers its own models."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest

from .models import Order, Parcel, Product, ReceivedEvent


class ReadOnly:
    """Read-only rows: a change in the admin would not publish an event."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: only services and handlers add rows."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """Return False: only services and handlers change rows."""
        return False


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    """Products, which can be edited."""

    list_display = ["name", "price"]


@admin.register(Order)
class OrderAdmin(ReadOnly, admin.ModelAdmin):
    """Orders, newest first."""

    list_display = ["id", "product", "quantity", "total", "status", "created_at"]
    list_filter = ["status"]
    ordering = ["-id"]


@admin.register(ReceivedEvent)
class ReceivedEventAdmin(ReadOnly, admin.ModelAdmin):
    """The events that handlers received, newest first."""

    list_display = ["id", "event_type", "key", "event_id", "received_at"]
    list_filter = ["event_type"]
    search_fields = ["event_id", "key"]
    ordering = ["-id"]


@admin.register(Parcel)
class ParcelAdmin(ReadOnly, admin.ModelAdmin):
    """Parcels, newest first."""

    list_display = ["tracking", "order", "packed_at"]
    ordering = ["-id"]
