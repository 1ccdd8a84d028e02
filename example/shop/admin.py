"""The shop's models in the admin. django-broadcaster registers its own models."""

from __future__ import annotations

from django.contrib import admin
from read_only import ReadOnly

from .models import InvoiceNote, Order, Parcel, Product, ReceivedEvent


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


@admin.register(InvoiceNote)
class InvoiceNoteAdmin(ReadOnly, admin.ModelAdmin):
    """The invoices that billing has sent, newest first."""

    list_display = ["id", "order", "number", "noted_at"]
    ordering = ["-id"]
